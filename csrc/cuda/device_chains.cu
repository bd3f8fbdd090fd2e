// Chains on a device: a thread for each sequence, one warp to a thread block, so that few sequences
// spread over many multiprocessors. Queued on the caller's stream.
#include <cuda_runtime.h>

#include "cuda/chain_thread.h"
#include "cuda/on_device.h"

namespace blatam::cuda {
namespace {

template <class Id>
__global__ void __launch_bounds__(kLanes) chains_kernel(const __grid_constant__ ChainJob job) {
  const uint64_t sequence = uint64_t{blockIdx.x} * kLanes + threadIdx.x;
  if (sequence < job.sequences) chain_sequence<Id>(job, static_cast<uint32_t>(sequence));
}

int check_memory(const ChainJob& job, int device) {
  const void* const always[] = {job.digests, job.counts};
  const void* const perhaps[] = {job.ids, job.begins, job.lengths, job.parents};
  for (const void* pointer : always)
    if (const int code = check_memory(pointer, device); code != kOk) return code;
  for (const void* pointer : perhaps)
    if (pointer != nullptr)
      if (const int code = check_memory(pointer, device); code != kOk) return code;
  return kOk;
}

}  // namespace

extern "C" {

int blatam_cuda_chains_run(const ChainJob* job, int device, void* stream) {
  if (const int code = blatam_chains_check(job); code != kOk) return code;
  if (job->sequences == 0) return kOk;
  const OnDevice current(device);
  if (current.error() != cudaSuccess) return code_of(current.error());
  if (const int code = check_memory(*job, device); code != kOk) return code;
  const uint32_t blocks = job->sequences / kLanes + (job->sequences % kLanes != 0);
  const auto queue = static_cast<cudaStream_t>(stream);
  if (job->id_type == Integer::int32 || job->id_type == Integer::uint32) {
    chains_kernel<uint32_t><<<blocks, kLanes, 0, queue>>>(*job);
  } else {
    chains_kernel<uint64_t><<<blocks, kLanes, 0, queue>>>(*job);
  }
  return code_of(cudaGetLastError());
}

}  // extern "C"

}  // namespace blatam::cuda
