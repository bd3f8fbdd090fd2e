// The rotation of rotation.h by a warp, which takes a row of up to kMostRotated values: as floats
// in the warp's scratch, there and back. A block of 2^n values lies over the lanes, value 32 i +
// lane in a lane's i-th register: wide stages pair registers, narrow ones pair lanes. Internal to
// the file that includes it.
#pragma once

#include "cuda/cells.h"
#include "kernels/rotation.h"

namespace blatam::cuda {
namespace {

// One block: the transform, then the factor that keeps lengths.
template <uint32_t kSize>
BLATAM_LANES void turn_block(Warp& warp, float* values) {
  constexpr uint32_t kCount = kSize > kLanes ? kSize / kLanes : 1;
  using Held = Floats<kCount>;
  Warp::PerLane<Held> held;
  warp.each([&](unsigned lane) {
    BLATAM_UNROLL
    for (uint32_t i = 0; i < kCount; ++i)
      held[lane].of[i] = kSize >= kLanes || lane < kSize ? values[kLanes * i + lane] : 0.0f;
    BLATAM_UNROLL
    for (uint32_t half = kCount / 2; half > 0; half /= 2) {
      BLATAM_UNROLL
      for (uint32_t i = 0; i < kCount; ++i) {
        if ((i & half) != 0) continue;
        const float a = held[lane].of[i];
        const float b = held[lane].of[i + half];
        held[lane].of[i] = add_rn(a, b);
        held[lane].of[i + half] = sub_rn(a, b);
      }
    }
  });
  BLATAM_UNROLL
  for (uint32_t half = (kSize < kLanes ? kSize : kLanes) / 2; half > 0; half /= 2)
    warp.pair(held, half, [half](unsigned lane, float mine, float theirs) {
      return (lane & half) != 0 ? sub_rn(theirs, mine) : add_rn(mine, theirs);
    });
  warp.each([&](unsigned lane) {
    const float factor = length_factor(kSize);
    BLATAM_UNROLL
    for (uint32_t i = 0; i < kCount; ++i)
      if (kSize >= kLanes || lane < kSize)
        values[kLanes * i + lane] = mul_rn(held[lane].of[i], factor);
  });
}

BLATAM_LANES void turn_head(Warp& warp, float* values, uint32_t head_dim) {
  for (uint32_t begin = 0; begin < head_dim;) {
    const auto size = static_cast<uint32_t>(block_size(head_dim - begin));
    float* const block = values + begin;
    switch (size) {
      case 1:
        turn_block<1>(warp, block);
        break;
      case 2:
        turn_block<2>(warp, block);
        break;
      case 4:
        turn_block<4>(warp, block);
        break;
      case 8:
        turn_block<8>(warp, block);
        break;
      case 16:
        turn_block<16>(warp, block);
        break;
      case 32:
        turn_block<32>(warp, block);
        break;
      case 64:
        turn_block<64>(warp, block);
        break;
      case 128:
        turn_block<128>(warp, block);
        break;
      case 256:
        turn_block<256>(warp, block);
        break;
      default:
        turn_block<512>(warp, block);
        break;
    }
    begin += size;
  }
}

// All heads of a row, one after the other.
BLATAM_LANES void turn_row(Warp& warp, const Plan& plan, float* values) {
  for (uint32_t begin = 0; begin < plan.row_values; begin += plan.job.head_dim)
    turn_head(warp, values + begin, plan.job.head_dim);
}

// Where eight values of a row lie, but for the token's memory.
BLATAM_LANES Stretch stretch_of(const Plan& plan, uint32_t row, uint32_t value) {
  const uint32_t left = plan.row_values - value;
  Stretch at;
  at.token = nullptr;
  at.count = left < kLaneValues ? left : kLaneValues;
  at.head = plan.whole_tokens ? value / plan.job.head_dim : row % plan.job.kv_heads;
  at.dim = plan.whole_tokens ? value - at.head * plan.job.head_dim : value;
  return at;
}
BLATAM_LANES uint32_t token_of_row(const Plan& plan, uint32_t row) {
  return plan.whole_tokens ? row : row / plan.job.kv_heads;
}

// Signs of eight channels from `at` on, the first in the lowest bit.
BLATAM_LANES uint32_t signs_of(const Plan& plan, const Stretch& at) {
  if (plan.job.head_dim % kLaneValues == 0)
    return static_cast<uint32_t>(sign_word(plan.job.seed, at.dim / 64) >> (at.dim % 64)) & 255u;
  uint32_t signs = 0;
  uint32_t dim = at.dim;
  for (uint32_t i = 0; i < at.count; ++i) {
    signs |= (sign_of(plan.job.seed, dim) >> 31) << i;
    if (++dim == plan.job.head_dim) dim = 0;
  }
  return signs;
}

// The row's values with their signs, as floats in `values`. Returns the greatest magnitude.
template <class Cell>
BLATAM_LANES uint32_t load_row(Warp& warp, const Plan& plan, uint32_t payload, uint32_t row,
                               float* values) {
  using T = typename Cell::Type;
  Warp::PerLane<uint32_t> greatest;
  warp.each([&](unsigned lane) {
    greatest[lane] = 0;
    const int64_t slot = slot_of(plan, payload, token_of_row(plan, row));
    uint8_t* const token = slot == kSkippedSlot ? nullptr : token_at(plan, payload, slot);
    for (uint32_t value = lane * kLaneValues; value < plan.row_values;
         value += kLanes * kLaneValues) {
      Stretch at = stretch_of(plan, row, value);
      at.token = token;
      Chunk chunk = {};
      if (token != nullptr) chunk = load_chunk<Cell>(plan, at);
      const uint32_t signs = signs_of(plan, at);
      BLATAM_UNROLL
      for (uint32_t i = 0; i < kLaneValues; ++i) {
        if (i >= at.count) break;
        const uint32_t bits = bits_of(T::widen(chunk.get(i)));
        const uint32_t magnitude = bits & 0x7fffffffu;
        greatest[lane] = magnitude > greatest[lane] ? magnitude : greatest[lane];
        values[value + i] = float_of(bits ^ (signs >> i & 1u) << 31);
      }
    }
  });
  warp.greatest(greatest, kLanes);
  uint32_t all = 0;
  warp.each([&](unsigned lane) { all = greatest[lane]; });
  return all;
}

// The way back, once the row is turned: signs, then the nearest values of the cache's type.
template <class Cell>
BLATAM_LANES void store_row(Warp& warp, const Plan& plan, uint32_t payload, uint32_t row,
                            const float* values) {
  using T = typename Cell::Type;
  warp.each([&](unsigned lane) {
    const int64_t slot = slot_of(plan, payload, token_of_row(plan, row));
    if (slot == kSkippedSlot) return;
    for (uint32_t value = lane * kLaneValues; value < plan.row_values;
         value += kLanes * kLaneValues) {
      Stretch at = stretch_of(plan, row, value);
      at.token = token_at(plan, payload, slot);
      const uint32_t signs = signs_of(plan, at);
      Chunk chunk = {};
      BLATAM_UNROLL
      for (uint32_t i = 0; i < kLaneValues; ++i) {
        if (i >= at.count) break;
        const float x = float_of(bits_of(values[value + i]) ^ (signs >> i & 1u) << 31);
        chunk.put(i, narrow_finite<T>(x));
      }
      store_chunk<Cell>(plan, at, chunk);
    }
  });
}

// What escapes where a row does so as a whole: rows.
class RowUnits {
 public:
  BLATAM_MEMBER RowUnits(const Plan& plan, const uint8_t* payload)
      : plan_(plan), meta_(payload + plan.meta_begin) {}
  BLATAM_MEMBER uint32_t count() const { return plan_.rows; }
  BLATAM_MEMBER bool escaped(uint32_t unit) const {
    return aligned_load<uint16_t>(meta_ + uint64_t{unit} * plan_.row_meta_bytes) == Bf16::kNan;
  }
  BLATAM_MEMBER uint32_t length(uint32_t /*unit*/) const { return plan_.row_values; }
  BLATAM_MEMBER uint32_t token(uint32_t unit, uint32_t /*i*/) const {
    return token_of_row(plan_, unit);
  }
  BLATAM_MEMBER int64_t slot(uint32_t payload, uint32_t unit, uint32_t i) const {
    return slot_of(plan_, payload, token(unit, i));
  }
  BLATAM_MEMBER uint32_t head(uint32_t unit, uint32_t i) const {
    return plan_.whole_tokens ? i / plan_.job.head_dim : unit % plan_.job.kv_heads;
  }
  BLATAM_MEMBER uint32_t dim(uint32_t /*unit*/, uint32_t i) const { return i % plan_.job.head_dim; }

 private:
  const Plan& plan_;
  const uint8_t* meta_;
};

}  // namespace
}  // namespace blatam::cuda
