// Where values lie in an engine's cache, and how eight of them are taken and put. Internal to the
// file that includes it.
#pragma once

#include "cuda/plan.h"
#include "cuda/warp.h"
#include "kernels/exchange.h"

namespace blatam::cuda {
namespace {

constexpr uint32_t kLaneValues = 8;

// What is stored in a cell, and the 16-bit pattern that it means.
struct CellBf16 {
  using Type = Bf16;
  using Bits = uint16_t;
  BLATAM_LANES uint16_t pattern(Bits bits) { return bits; }
  BLATAM_LANES Bits bits(uint16_t pattern) { return pattern; }
};
struct CellFp16 {
  using Type = Fp16;
  using Bits = uint16_t;
  BLATAM_LANES uint16_t pattern(Bits bits) { return bits; }
  BLATAM_LANES Bits bits(uint16_t pattern) { return pattern; }
};
struct CellFp8 {
  using Type = Bf16;
  using Bits = uint8_t;
  BLATAM_LANES uint16_t pattern(Bits bits) {
    if ((bits & 0x7fu) == kFp8Nan)
      return static_cast<uint16_t>(static_cast<unsigned>(bits & 0x80u) << 8 | 0x7fc0u);
    return Bf16::narrow(value_of_fp8(bits));  // exactly
  }
  BLATAM_LANES Bits bits(uint16_t pattern) {
    if ((pattern & 0x7fffu) > 0x7f80u) return static_cast<Bits>((pattern >> 8 & 0x80u) | kFp8Nan);
    return fp8_of(Bf16::widen(pattern));
  }
};

struct CellE5m2 {
  using Type = Bf16;
  using Bits = uint8_t;
  BLATAM_LANES uint16_t pattern(Bits bits) {
    if ((bits & 0x7fu) >= kE5m2Infinity)  // with what a NaN carries
      return static_cast<uint16_t>(static_cast<unsigned>(bits & 0x80u) << 8 | 0x7f80u |
                                   (bits & 3u) << 5);
    return Bf16::narrow(value_of_e5m2(bits));  // exactly
  }
  BLATAM_LANES Bits bits(uint16_t pattern) {
    const unsigned magnitude = pattern & 0x7fffu;
    if (magnitude < 0x7f80u) return e5m2_of(Bf16::widen(pattern));
    const unsigned carried = magnitude >> 5 & 3u;
    const unsigned quiet = magnitude > 0x7f80u && carried == 0 ? 2u : carried;
    return static_cast<Bits>((pattern >> 8 & 0x80u) | kE5m2Infinity | quiet);
  }
};

// Eight patterns; in memory, where vectors are allowed, one access of 16 bytes.
struct alignas(16) Chunk {
  uint32_t words[4];

  BLATAM_MEMBER uint16_t get(unsigned i) const {
    return static_cast<uint16_t>(words[i / 2] >> (16 * (i % 2)));
  }
  // The same where i is not known when it is compiled: no word is indexed, so all stay in
  // registers.
  BLATAM_MEMBER uint16_t any(unsigned i) const {
    const uint64_t low = words[0] | static_cast<uint64_t>(words[1]) << 32;
    const uint64_t high = words[2] | static_cast<uint64_t>(words[3]) << 32;
    return static_cast<uint16_t>((i < 4 ? low : high) >> (16 * (i % 4)));
  }
  // Requires zeros there.
  BLATAM_MEMBER void put(unsigned i, uint16_t bits) {
    words[i / 2] |= static_cast<uint32_t>(bits) << (16 * (i % 2));
  }
};

// Pointers that are known to be aligned. Where one is not, a device ends the process's context; so
// the host, whose memory would take it, ends the process: tests on the host find what only a GPU
// would.
#ifndef __CUDA_ARCH__
template <class Word>
BLATAM_LANES void require_aligned(const uint8_t* at) {
  if (reinterpret_cast<uintptr_t>(at) % alignof(Word) != 0) __builtin_trap();
}
#endif
template <class Word>
BLATAM_LANES Word aligned_load(const uint8_t* from) {
#ifdef __CUDA_ARCH__
  return *reinterpret_cast<const Word*>(from);
#else
  require_aligned<Word>(from);
  Word word;
  memcpy(&word, from, sizeof word);
  return word;
#endif
}
template <class Word>
BLATAM_LANES void aligned_store(uint8_t* to, const Word& word) {
#ifdef __CUDA_ARCH__
  *reinterpret_cast<Word*>(to) = word;
#else
  require_aligned<Word>(to);
  memcpy(to, &word, sizeof word);
#endif
}

// ---- tokens -------------------------------------------------------------------------------------

BLATAM_LANES uint32_t block_of(const Plan& plan, uint32_t payload) {
  return payload / plan.job.tensors;
}
BLATAM_LANES const Tensor& tensor_of(const Plan& plan, uint32_t payload) {
  return plan.job.tensor[payload % plan.job.tensors];
}
BLATAM_LANES uint8_t* payload_at(const Plan& plan, uint32_t payload) {
  if (plan.job.places != nullptr) return plan.job.payloads + plan.job.places[payload];
  return plan.job.payloads + block_of(plan, payload) * plan.job.block_stride +
         tensor_of(plan, payload).payload;
}

// The slot of a token, or kSkippedSlot; one that is out of range is a fault, and skipped.
BLATAM_LANES int64_t slot_of(const Plan& plan, uint32_t payload, uint32_t token) {
  const uint64_t index = uint64_t{block_of(plan, payload)} * plan.job.tokens + token;
  const int64_t slot = plan.job.slots[index];
  if (slot >= 0 && static_cast<uint64_t>(slot) < plan.job.slot_limit) return slot;
  if (slot != kSkippedSlot) add_bits(plan.job.faults + payload, kFaultSlot);
  return kSkippedSlot;
}

// Where a slot's token begins. Requires a slot that is not skipped.
BLATAM_LANES uint8_t* token_at(const Plan& plan, uint32_t payload, int64_t slot) {
  const auto place = static_cast<uint32_t>(slot);
  const uint32_t block = place / plan.job.block_tokens;
  return tensor_of(plan, payload).base + int64_t{block} * plan.job.block_bytes +
         int64_t{place - block * plan.job.block_tokens} * plan.job.token_bytes;
}

// ---- values -------------------------------------------------------------------------------------

BLATAM_LANES uint8_t* value_at(const Plan& plan, uint8_t* token, uint32_t head, uint32_t dim,
                               uint32_t bytes) {
  uint8_t* const first = token + int64_t{head} * plan.job.head_bytes;
  if (plan.job.run >= plan.job.head_dim) return first + dim * bytes;
  const uint32_t run = dim / plan.job.run;
  return first + int64_t{run} * plan.job.run_bytes + (dim - run * plan.job.run) * bytes;
}

// A stretch of up to eight channels; it goes on with the next head where one ends.
struct Stretch {
  uint8_t* token;
  uint32_t head;
  uint32_t dim;
  uint32_t count;
};

template <class Cell>
BLATAM_LANES Chunk load_chunk(const Plan& plan, const Stretch& at) {
  using Bits = typename Cell::Bits;
  constexpr uint32_t kBytes = sizeof(Bits);
  Chunk chunk = {};
  if (plan.vector) {
    const uint8_t* const from = value_at(plan, at.token, at.head, at.dim, kBytes);
    if constexpr (kBytes == 2) return aligned_load<Chunk>(from);
    const auto eight = aligned_load<uint64_t>(from);
    BLATAM_UNROLL
    for (unsigned i = 0; i < kLaneValues; ++i)
      chunk.put(i, Cell::pattern(static_cast<Bits>(eight >> (8 * i))));
    return chunk;
  }
  uint32_t head = at.head;
  uint32_t dim = at.dim;
  BLATAM_UNROLL
  for (uint32_t i = 0; i < kLaneValues; ++i) {
    if (i >= at.count) break;
    chunk.put(i, Cell::pattern(aligned_load<Bits>(value_at(plan, at.token, head, dim, kBytes))));
    if (++dim == plan.job.head_dim) dim = 0, ++head;
  }
  return chunk;
}

template <class Cell>
BLATAM_LANES void store_chunk(const Plan& plan, const Stretch& at, const Chunk& chunk) {
  using Bits = typename Cell::Bits;
  constexpr uint32_t kBytes = sizeof(Bits);
  if (plan.vector) {
    uint8_t* const to = value_at(plan, at.token, at.head, at.dim, kBytes);
    if constexpr (kBytes == 2) {
      aligned_store(to, chunk);
    } else {
      uint64_t eight = 0;
      BLATAM_UNROLL
      for (unsigned i = 0; i < kLaneValues; ++i)
        eight |= static_cast<uint64_t>(Cell::bits(chunk.get(i))) << (8 * i);
      aligned_store(to, eight);
    }
    return;
  }
  uint32_t head = at.head;
  uint32_t dim = at.dim;
  BLATAM_ROLL  // nothing waits for a store, and eight copies of this were half of the code
      for (uint32_t i = 0; i < at.count; ++i) {
    aligned_store<Bits>(value_at(plan, at.token, head, dim, kBytes), Cell::bits(chunk.any(i)));
    if (++dim == plan.job.head_dim) dim = 0, ++head;
  }
}

}  // namespace
}  // namespace blatam::cuda
