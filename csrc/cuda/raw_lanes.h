// `raw`, and the tokens that fill no page in schemes by page: patterns as they are,
// [tokens][kv_heads][head_dim]. A lane moves eight channels. Internal to the file that includes it.
#pragma once

#include "cuda/cells.h"

namespace blatam::cuda {
namespace {

// The chunk of lane `lane` in the `item`-th 32 of tokens from `first` on.
struct RawChunk {
  uint32_t token;
  Stretch at;
  uint64_t offset;  // of its patterns after the first token's

  BLATAM_MEMBER RawChunk(const Plan& plan, uint32_t first, uint32_t item, unsigned lane) {
    const uint32_t heads = plan.job.kv_heads;
    const uint32_t dims = plan.job.head_dim;
    const uint32_t in_head = (dims + kLaneValues - 1) / kLaneValues;
    const uint32_t index = item * kLanes + lane;
    const uint32_t row = index / in_head;
    token = first + row / heads;
    at.token = nullptr;
    at.head = row % heads;
    at.dim = (index - row * in_head) * kLaneValues;
    const uint32_t left = dims - at.dim;
    at.count = left < kLaneValues ? left : kLaneValues;
    offset = 2 * (uint64_t{row} * dims + at.dim);
  }
};

BLATAM_LANES void put_patterns(const Plan& plan, uint8_t* to, const Chunk& chunk, uint32_t count) {
  if (plan.vector) return aligned_store(to, chunk);
  BLATAM_UNROLL
  for (uint32_t i = 0; i < kLaneValues; ++i) {
    if (i >= count) break;
    aligned_store<uint16_t>(to + 2 * i, chunk.get(i));
  }
}

BLATAM_LANES Chunk take_patterns(const Plan& plan, const uint8_t* from, uint32_t count) {
  if (plan.vector) return aligned_load<Chunk>(from);
  Chunk chunk = {};
  BLATAM_UNROLL
  for (uint32_t i = 0; i < kLaneValues; ++i) {
    if (i >= count) break;
    chunk.put(i, aligned_load<uint16_t>(from + 2 * i));
  }
  return chunk;
}

template <class Cell>
BLATAM_LANES void store_raw(Warp& warp, const Plan& plan, uint32_t payload, uint32_t item,
                            uint32_t first, uint64_t begin) {
  warp.each([&](unsigned lane) {
    RawChunk chunk(plan, first, item, lane);
    if (chunk.token >= plan.job.tokens) return;
    const int64_t slot = slot_of(plan, payload, chunk.token);
    Chunk held = {};
    if (slot != kSkippedSlot) {
      chunk.at.token = token_at(plan, payload, slot);
      held = load_chunk<Cell>(plan, chunk.at);
    }
    put_patterns(plan, payload_at(plan, payload) + begin + chunk.offset, held, chunk.at.count);
  });
}

template <class Cell>
BLATAM_LANES void fetch_raw(Warp& warp, const Plan& plan, uint32_t payload, uint32_t item,
                            uint32_t first, uint64_t begin) {
  warp.each([&](unsigned lane) {
    RawChunk chunk(plan, first, item, lane);
    if (chunk.token >= plan.job.tokens) return;
    const int64_t slot = slot_of(plan, payload, chunk.token);
    if (slot == kSkippedSlot) return;
    chunk.at.token = token_at(plan, payload, slot);
    store_chunk<Cell>(
        plan, chunk.at,
        take_patterns(plan, payload_at(plan, payload) + begin + chunk.offset, chunk.at.count));
  });
}

struct Raw {
  static constexpr uint32_t kScratch = 16;

  template <class Cell>
  BLATAM_LANES void store(Warp& warp, const Plan& plan, uint32_t payload, uint32_t item) {
    store_raw<Cell>(warp, plan, payload, item, 0, 0);
  }
  template <class Cell>
  BLATAM_LANES void fetch(Warp& warp, const Plan& plan, uint32_t payload, uint32_t item) {
    fetch_raw<Cell>(warp, plan, payload, item, 0, 0);
  }

  // Nothing escapes.
  struct Units {
    BLATAM_MEMBER Units(const Plan& /*plan*/, const uint8_t* /*payload*/) {}
    BLATAM_MEMBER uint32_t count() const { return 0; }
    BLATAM_MEMBER bool escaped(uint32_t /*unit*/) const { return false; }
    BLATAM_MEMBER uint32_t length(uint32_t /*unit*/) const { return 0; }
    BLATAM_MEMBER uint32_t token(uint32_t /*unit*/, uint32_t /*i*/) const { return 0; }
    BLATAM_MEMBER int64_t slot(uint32_t /*payload*/, uint32_t /*unit*/, uint32_t /*i*/) const {
      return kSkippedSlot;
    }
    BLATAM_MEMBER uint32_t head(uint32_t /*unit*/, uint32_t /*i*/) const { return 0; }
    BLATAM_MEMBER uint32_t dim(uint32_t /*unit*/, uint32_t /*i*/) const { return 0; }
  };
};

}  // namespace
}  // namespace blatam::cuda
