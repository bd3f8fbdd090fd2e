// What every call that queues work needs: codes of CUDA's errors, the device for the length of the
// call, and whether memory is the device's. Internal to the file that includes it.
#pragma once

#include <cuda_runtime.h>

#include "cuda/paged.h"

namespace blatam::cuda {
namespace {

// The runtime also keeps an error for the thread's next question, where a later launch would be
// blamed for it; asked here, it forgets all but those that no call survives.
inline int code_of(cudaError_t error) {
  if (error == cudaSuccess) return kOk;
  (void)cudaGetLastError();
  return kCudaError + error;
}

// kOk if a kernel on the device may use the memory.
inline int check_memory(const void* pointer, int device) {
  cudaPointerAttributes found;
  if (const cudaError_t error = cudaPointerGetAttributes(&found, pointer); error != cudaSuccess)
    return code_of(error);
  if (found.type == cudaMemoryTypeManaged) return kOk;
  return found.type == cudaMemoryTypeDevice && found.device == device ? kOk : kElsewhere;
}

// The calling thread's device for the length of a call.
class OnDevice {
 public:
  explicit OnDevice(int device) : error_(cudaGetDevice(&before_)) {
    if (error_ == cudaSuccess && before_ != device) {
      error_ = cudaSetDevice(device);
      changed_ = error_ == cudaSuccess;
    }
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  ~OnDevice() {
    if (changed_) (void)cudaSetDevice(before_);  // the call has its code; no one else is to be told
  }
  cudaError_t error() const { return error_; }

 private:
  int before_ = 0;
  bool changed_ = false;
  cudaError_t error_;
};

}  // namespace
}  // namespace blatam::cuda
