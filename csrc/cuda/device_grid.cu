// The grid on a device: a warp for each item of each payload, then a warp for each payload. Both
// kernels are queued on the caller's stream; nothing is allocated and nothing waits.
#include <cuda_runtime.h>

#include <initializer_list>

#include "cuda/grid.h"
#include "cuda/on_device.h"

namespace blatam::cuda {
namespace {

constexpr uint32_t kThreads = kWarpsInBlock * kLanes;
// On a multiprocessor. Unless told, ptxas aims higher by itself and spills a few words for it.
constexpr uint32_t kLeastBlocks = 1;

template <class Lanes, class Cell, bool kStore>
__global__ void __launch_bounds__(kThreads, kLeastBlocks)
    rows_kernel(const __grid_constant__ Plan plan, uint32_t blocks_each) {
  __shared__ alignas(16) uint8_t scratch[kWarpsInBlock][Lanes::kScratch];
  const uint32_t payload = blockIdx.x / blocks_each;
  const uint32_t warp_index = threadIdx.x / kLanes;
  const uint32_t item = (blockIdx.x - payload * blocks_each) * kWarpsInBlock + warp_index;
  if (item >= plan.items + plan.tail_items) return;
  Warp warp(scratch[warp_index]);
  if constexpr (kStore) {
    Lanes::template store<Cell>(warp, plan, payload, item);
  } else {
    Lanes::template fetch<Cell>(warp, plan, payload, item);
  }
}

template <class Lanes, class Cell, bool kStore>
__global__ void __launch_bounds__(kThreads, kLeastBlocks)
    settle_kernel(const __grid_constant__ Plan plan, uint32_t payloads) {
  __shared__ alignas(16) uint8_t scratch[kWarpsInBlock][16];
  const uint32_t payload = blockIdx.x * kWarpsInBlock + threadIdx.x / kLanes;
  if (payload >= payloads) return;
  Warp warp(scratch[threadIdx.x / kLanes]);
  if constexpr (kStore) {
    Settle<Lanes, Cell>::store(warp, plan, payload);
  } else {
    Settle<Lanes, Cell>::fetch(warp, plan, payload);
  }
}

struct DeviceGrid {
  cudaStream_t stream;

  template <class Lanes, class Cell>
  int store(const Plan& plan) const {
    return launch<Lanes, Cell, true>(plan);
  }
  template <class Lanes, class Cell>
  int fetch(const Plan& plan) const {
    return launch<Lanes, Cell, false>(plan);
  }

 private:
  template <class Lanes, class Cell, bool kStore>
  int launch(const Plan& plan) const {
    const uint32_t payloads = plan.job.blocks * plan.job.tensors;
    const cudaError_t cleared =
        cudaMemsetAsync(plan.job.faults, 0, payloads * sizeof(uint32_t), stream);
    if (cleared != cudaSuccess) return code_of(cleared);
    const uint32_t each = (plan.items + plan.tail_items + kWarpsInBlock - 1) / kWarpsInBlock;
    if (each != 0)
      rows_kernel<Lanes, Cell, kStore><<<payloads * each, kThreads, 0, stream>>>(plan, each);
    if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) return code_of(error);
    const uint32_t blocks = (payloads + kWarpsInBlock - 1) / kWarpsInBlock;
    settle_kernel<Lanes, Cell, kStore><<<blocks, kThreads, 0, stream>>>(plan, payloads);
    return code_of(cudaGetLastError());
  }
};

int check_memory(const Job& job, int device) {
  for (uint32_t t = 0; t < job.tensors; ++t)
    if (const int code = check_memory(job.tensor[t].base, device); code != kOk) return code;
  for (const void* pointer :
       {static_cast<const void*>(job.payloads), static_cast<const void*>(job.bytes),
        static_cast<const void*>(job.faults)})
    if (const int code = check_memory(pointer, device); code != kOk) return code;
  if (job.places != nullptr)
    if (const int code = check_memory(job.places, device); code != kOk) return code;
  return job.tokens == 0 ? kOk : check_memory(job.slots, device);
}

int run(const Job& job, int device, void* stream, bool store) {
  Plan plan;
  if (const int code = make_plan(job, &plan); code != kOk) return code;
  if (job.blocks == 0 || job.tensors == 0) return kOk;
  const OnDevice current(device);
  if (current.error() != cudaSuccess) return code_of(current.error());
  if (const int code = check_memory(job, device); code != kOk) return code;
  return run_plan(DeviceGrid{static_cast<cudaStream_t>(stream)}, plan, store);
}

}  // namespace

extern "C" {

int blatam_cuda_store(const Job* job, int device, void* stream) {
  return run(*job, device, stream, true);
}
int blatam_cuda_fetch(const Job* job, int device, void* stream) {
  return run(*job, device, stream, false);
}

}  // extern "C"

}  // namespace blatam::cuda
