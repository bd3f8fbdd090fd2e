// What there is to run on, and what a code means.
#include "cuda/on_device.h"

namespace blatam::cuda {

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
