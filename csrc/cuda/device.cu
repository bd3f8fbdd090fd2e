// What there is to run on, and what a code means.
#include <cuda_runtime.h>

#include "cuda/paged.h"

namespace blatam::cuda {
namespace {

int code_of(cudaError_t error) { return error == cudaSuccess ? kOk : kCudaError + error; }

}  // namespace

extern "C" {

const char* blatam_cuda_text(int code) {
  if (code < kCudaError) return blatam_paged_text(code);
  return cudaGetErrorString(static_cast<cudaError_t>(code - kCudaError));
}

const char* blatam_cuda_architectures() { return BLATAM_CUDA_ARCHITECTURES; }

int blatam_cuda_versions(int* driver, int* runtime) {
  if (const cudaError_t error = cudaRuntimeGetVersion(runtime); error != cudaSuccess)
    return code_of(error);
  return code_of(cudaDriverGetVersion(driver));
}

int blatam_cuda_device_count(int* count) {
  *count = 0;
  return code_of(cudaGetDeviceCount(count));
}

}  // extern "C"

}  // namespace blatam::cuda
