// Chains of digests from what Python passes: numbers and addresses. Both modules that run them take
// the same arguments; what is wrong with them is found where they are run.
#pragma once

#include <pybind11/pybind11.h>

#include <array>
#include <cstdint>
#include <cstring>

#include "cuda/chains.h"

namespace blatam::python {

// state: 64 bytes of words, parent: 32 of a digest. types: of ids and of bounds. memory: addresses
// of ids, begins, lengths, parents, digests and counts, 0 where there are none. rows: ids of one,
// and from one to the next.
inline cuda::ChainJob chain_job(const pybind11::bytes& state, uint64_t counter,
                                const std::array<uint8_t, 2>& types,
                                const std::array<uint64_t, 6>& memory, uint64_t ids_count,
                                const std::array<uint64_t, 2>& rows, uint32_t sequences,
                                uint32_t block_tokens, const pybind11::bytes& parent,
                                uint64_t room) {
  cuda::ChainJob job = {};
  const char* const words = PyBytes_AS_STRING(state.ptr());
  const char* const first = PyBytes_AS_STRING(parent.ptr());
  if (PyBytes_GET_SIZE(state.ptr()) != sizeof job.state)
    throw pybind11::value_error("state must have 64 bytes");
  if (PyBytes_GET_SIZE(parent.ptr()) != sizeof job.parent)
    throw pybind11::value_error("parent must be a digest of 32 bytes");
  std::memcpy(job.state, words, sizeof job.state);
  for (size_t i = 0; i < sizeof job.parent; ++i)
    job.parent[i / 8] |= uint64_t{static_cast<uint8_t>(first[i])} << (8 * (i % 8));
  job.counter = counter;
  job.id_type = static_cast<cuda::Integer>(types[0]);
  job.bound_type = static_cast<cuda::Integer>(types[1]);
  job.ids = reinterpret_cast<const void*>(memory[0]);
  job.begins = reinterpret_cast<const void*>(memory[1]);
  job.lengths = reinterpret_cast<const void*>(memory[2]);
  job.parents = reinterpret_cast<const uint8_t*>(memory[3]);
  job.digests = reinterpret_cast<uint8_t*>(memory[4]);
  job.counts = reinterpret_cast<int64_t*>(memory[5]);
  job.ids_count = ids_count;
  job.row_ids = rows[0];
  job.row_stride = rows[1];
  job.sequences = sequences;
  job.block_tokens = block_tokens;
  job.room = room;
  return job;
}

}  // namespace blatam::python
