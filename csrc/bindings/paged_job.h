// A job on a paged cache from what Python passes: numbers and addresses. Both modules that run jobs
// take the same arguments; what is wrong with them is found where jobs are planned.
#pragma once

#include <pybind11/pybind11.h>

#include <algorithm>
#include <array>
#include <cstdint>

#include "bindings/buffer.h"
#include "cuda/paged.h"

namespace blatam::python {

// shape: tokens, kv_heads, head_dim. cache: block_tokens, run, slot_limit; strides: block, token,
// head and run, in bytes. tensors: base addresses and offsets of payloads in turn, 64 bits each.
// memory: addresses of slots, payloads, bytes and faults.
inline cuda::Job paged_job(uint8_t scheme, uint8_t element, const std::array<uint32_t, 3>& shape,
                           const std::array<uint64_t, 3>& cache,
                           const std::array<int64_t, 4>& strides, uint64_t seed, uint32_t blocks,
                           const py::object& tensors, const std::array<uint64_t, 4>& memory,
                           uint64_t block_stride, uint64_t payload_room) {
  const Buffer buffer(tensors, PyBUF_SIMPLE);
  const auto numbers = buffer.items<uint64_t>();
  cuda::Job job = {};
  job.scheme = static_cast<cuda::Scheme>(scheme);
  job.element = static_cast<cuda::Element>(element);
  job.tokens = shape[0];
  job.kv_heads = shape[1];
  job.head_dim = shape[2];
  job.block_tokens = static_cast<uint32_t>(std::min<uint64_t>(cache[0], UINT32_MAX));
  job.run = static_cast<uint32_t>(std::min<uint64_t>(cache[1], UINT32_MAX));
  job.slot_limit = cache[2];
  job.block_bytes = strides[0];
  job.token_bytes = strides[1];
  job.head_bytes = strides[2];
  job.run_bytes = strides[3];
  job.seed = seed;
  job.blocks = blocks;
  job.tensors = static_cast<uint32_t>(numbers.size() / 2);
  job.slots = reinterpret_cast<const int64_t*>(memory[0]);
  job.payloads = reinterpret_cast<uint8_t*>(memory[1]);
  job.bytes = reinterpret_cast<uint64_t*>(memory[2]);
  job.faults = reinterpret_cast<uint32_t*>(memory[3]);
  job.block_stride = block_stride;
  job.payload_room = payload_room;
  for (uint32_t t = 0; t < std::min(job.tensors, cuda::kMostTensors); ++t)
    job.tensor[t] = {reinterpret_cast<uint8_t*>(numbers[2 * t]), numbers[2 * t + 1]};
  return job;
}

}  // namespace blatam::python
