// A chunk of `exp4` (docs/LOSSLESS.md): 1,024 values in the order of the tensor, where its parts
// lie in a payload and where its values lie in a cache. Internal to the file that includes it.
#pragma once

#include "cuda/cells.h"

namespace blatam::cuda {
namespace {

constexpr uint32_t kChunkValues = 1024;
constexpr uint32_t kCodeBlockValues = 64;
constexpr uint32_t kTurnValues = kLanes * kLaneValues;
constexpr uint32_t kTurns = kChunkValues / kTurnValues;
constexpr uint32_t kLineBytes = 3;
constexpr uint32_t kStoredRaw = 0xffff;
constexpr uint32_t kEscapeCode = 15;

template <class T>
struct Exponent {
  static constexpr uint32_t kShift = 7;
  static constexpr uint32_t kMask = 255;
  static constexpr uint32_t kBlockBytes = 32;
};
template <>
struct Exponent<Fp16> {
  static constexpr uint32_t kShift = 10;
  static constexpr uint32_t kMask = 31;
  static constexpr uint32_t kBlockBytes = 56;
};

// Where the parts of a chunk lie.
template <class T>
struct ChunkParts {
  uint32_t count;
  uint32_t code_bytes;
  uint32_t excess;  // tops that have no place among the codes, where it is raw
  uint8_t* line;
  uint8_t* codes;
  uint8_t* rests;

  BLATAM_LANES uint32_t code_bytes_of(uint32_t values) {
    constexpr uint32_t kWhole = Exponent<T>::kBlockBytes;
    const uint32_t left = values % kCodeBlockValues;
    return values / kCodeBlockValues * kWhole + (left < kWhole ? left : kWhole);
  }
  BLATAM_MEMBER ChunkParts(const Plan& plan, uint8_t* payload, uint32_t chunk) {
    const uint32_t before = chunk * kChunkValues;
    const uint32_t left = plan.row_values - before;
    count = left < kChunkValues ? left : kChunkValues;
    code_bytes = code_bytes_of(count);
    excess = count - code_bytes;
    line = payload + 1 + uint64_t{kLineBytes} * chunk;
    codes = payload + 1 + uint64_t{kLineBytes} * plan.rows + code_bytes_of(before) + before;
    rests = codes + code_bytes;
  }
  BLATAM_MEMBER uint32_t stored() const { return line[1] | static_cast<uint32_t>(line[2]) << 8; }
  // Bytes of escapes that the line announces; more than any chunk has where that is impossible.
  BLATAM_MEMBER uint32_t escape_bytes() const {
    if (stored() == kStoredRaw) return excess;
    return 3 * stored() <= excess ? 3 * stored() : kChunkValues;
  }
  // The code of a value, and for fp16 three bits of its mantissa below.
  BLATAM_MEMBER uint32_t code(uint32_t i) const {
    const uint32_t block = i / kCodeBlockValues * Exponent<T>::kBlockBytes;
    const uint32_t in = i % kCodeBlockValues;
    const auto byte = [&](uint32_t at) -> uint32_t {
      return block + at < code_bytes ? codes[block + at] : 0;
    };
    if constexpr (Exponent<T>::kBlockBytes == 32) {
      return in < 32 ? byte(in) & 15u : byte(in - 32) >> 4;
    } else {
      if (in < 56) return byte(in) & 127u;
      uint32_t seven = 0;
      for (uint32_t g = 0; g < 7; ++g) seven |= (byte(8 * g + in - 56) >> 7) << g;
      return seven;
    }
  }
};

BLATAM_LANES uint32_t rest_of(uint16_t bits) { return (bits & 0x7fu) | (bits >> 8 & 0x80u); }
BLATAM_LANES uint16_t pattern_of(uint32_t top, uint32_t rest) {
  return static_cast<uint16_t>((rest & 0x80u) << 8 | (top & 0xffu) << 7 | (rest & 0x7fu));
}

// Where eight values from `value` on lie, the first `count` of the payload's; no token yet.
BLATAM_LANES Stretch flat_stretch(const Plan& plan, uint32_t value, uint32_t count,
                                  uint32_t* token) {
  const uint32_t row = value / plan.job.head_dim;
  *token = row / plan.job.kv_heads;
  return {nullptr, row - *token * plan.job.kv_heads, value - row * plan.job.head_dim, count};
}

// One value of the payload.
template <class Cell>
BLATAM_LANES uint16_t take_value(const Plan& plan, uint32_t payload, uint32_t value) {
  uint32_t token;
  const Stretch at = flat_stretch(plan, value, 1, &token);
  const int64_t slot = slot_of(plan, payload, token);
  if (slot == kSkippedSlot) return 0;
  return Cell::pattern(aligned_load<typename Cell::Bits>(
      value_at(plan, token_at(plan, payload, slot), at.head, at.dim, sizeof(typename Cell::Bits))));
}
template <class Cell>
BLATAM_LANES void put_value(const Plan& plan, uint32_t payload, uint32_t value, uint16_t pattern) {
  uint32_t token;
  const Stretch at = flat_stretch(plan, value, 1, &token);
  const int64_t slot = slot_of(plan, payload, token);
  if (slot == kSkippedSlot) return;
  aligned_store<typename Cell::Bits>(
      value_at(plan, token_at(plan, payload, slot), at.head, at.dim, sizeof(typename Cell::Bits)),
      Cell::bits(pattern));
}

}  // namespace
}  // namespace blatam::cuda
