// `levels` (tq4, tq3): a warp turns a head, finds its norm and takes each value to the nearest
// level of a codebook. Internal to the file that includes it.
#pragma once

#include "cuda/rotated_lanes.h"
#include "kernels/lloyd_max.h"

namespace blatam::cuda {
namespace {

// Three bits, each of eight lanes its part: the low two bits of codes i + k * q in bits 2 k of byte
// i, q = ceil(count / 4); then the high bits, eight a byte.
BLATAM_LANES void pack_threes(const uint8_t* codes, uint32_t count, unsigned part, uint8_t* to) {
  const uint32_t quarter = (count + 3) / 4;
  for (uint32_t j = part; j < quarter; j += kGroupLanes) {
    unsigned low = 0;
    for (uint32_t k = 0; k < 4; ++k)
      if (j + k * quarter < count) low |= (codes[j + k * quarter] & 3u) << (2 * k);
    to[j] = static_cast<uint8_t>(low);
  }
  for (uint32_t j = part; j < (count + 7) / 8; j += kGroupLanes) {
    unsigned high = 0;
    for (uint32_t k = 0; k < 8; ++k)
      if (8 * j + k < count) high |= static_cast<unsigned>(codes[8 * j + k] >> 2) << k;
    to[quarter + j] = static_cast<uint8_t>(high);
  }
}
BLATAM_LANES uint32_t take_three(const uint8_t* from, uint32_t count, uint32_t i) {
  const uint32_t quarter = (count + 3) / 4;
  const uint32_t low = static_cast<uint32_t>(from[i % quarter]) >> (2 * (i / quarter)) & 3u;
  const uint32_t high = static_cast<uint32_t>(from[quarter + i / 8]) >> (i % 8) & 1u;
  return low | high << 2;
}

template <int kBits>
BLATAM_LANES const LloydMax<kBits>& book_of(const Plan& plan) {
  if constexpr (kBits == 4) {
    return plan.book4;
  } else {
    return plan.book3;
  }
}

template <int kBits>
struct Levels {
  static constexpr uint32_t kCodesAt = kRowBytes;
  static constexpr uint32_t kScratch = kCodesAt + kCodesBytes;
  static constexpr uint32_t kGroupBytes = kBits == 4 ? 32 : 24;

  using Units = RowUnits;

  // In the order that lloyd_max.h says: 16 lanes, each by fused multiply-add, then halves. A sign
  // makes no difference to a square.
  BLATAM_LANES float squares_of(Warp& warp, const float* values, uint32_t count) {
    Warp::PerLane<Floats<1>> sums;
    warp.each([&](unsigned lane) {
      float sum = 0.0f;
      for (uint32_t i = lane; i < count && lane < kSumLanes; i += kSumLanes)
        sum = fma_rn(values[i], values[i], sum);
      sums[lane].of[0] = sum;
    });
    for (unsigned half = kSumLanes / 2; half > 0; half /= 2)
      warp.pair(sums, half,
                [](unsigned, float mine, float theirs) { return add_rn(mine, theirs); });
    // Lanes 16 and up hold zeros; the first speaks for all.
    float* const place = reinterpret_cast<float*>(warp.scratch() + kCodesAt);
    warp.each([&](unsigned lane) {
      if (lane == 0) *place = sums[lane].of[0];
    });
    const float all = *place;
    warp.each([](unsigned) {});  // read by all before it is written again
    return all;
  }

  template <class Cell>
  BLATAM_LANES void store(Warp& warp, const Plan& plan, uint32_t payload, uint32_t row) {
    uint8_t* const out = payload_at(plan, payload);
    float* const values = reinterpret_cast<float*>(warp.scratch());
    uint16_t norm = Fp16::kNan;
    if (load_row<Cell>(warp, plan, payload, row, values) < kRotationLimit) {
      const float squares = squares_of(warp, values, plan.row_values);
      turn_row(warp, plan, values);
      Warp::PerLane<bool> some;
      warp.each([&](unsigned lane) {
        some[lane] = false;
        for (uint32_t i = lane; i < plan.row_values; i += kLanes)
          some[lane] = some[lane] || values[i] != 0.0f;
      });
      norm = norm_of(squares, plan.row_values, squares == 0.0f && !warp.any(some));
    }
    const bool escapes = norm == Fp16::kNan;
    const float inverse = norm != 0 && !escapes ? div_rn(1.0f, Fp16::widen(norm)) : 0.0f;
    uint8_t* const codes = out + uint64_t{row} * plan.row_code_bytes;
    for (uint32_t quad = 0; quad < RotatedRows::quads(plan); ++quad) {
      warp.each([&](unsigned lane) {
        if (quad == 0) {
          if (row == 0) clear_gap(out, plan.codes_end, plan.meta_begin, lane);
          if (lane == 0) {
            aligned_store<uint16_t>(out + plan.meta_begin + 2 * uint64_t{row}, norm);
            if (escapes) add_bits(plan.job.faults + payload, kEscapes);
          }
        }
        const RowLane mine(plan, quad, lane);
        uint64_t eight = 0;
        for (uint32_t i = 0; i < mine.mine && !escapes; ++i)
          eight |= static_cast<uint64_t>(level_code<kBits>(mul_rn(values[mine.begin + i], inverse),
                                                           book_of<kBits>(plan)))
                   << (8 * i);
        aligned_store(warp.scratch() + kCodesAt + lane * kLaneValues, eight);
      });
      warp.each([&](unsigned lane) {
        const RowLane mine(plan, quad, lane);
        if (!mine.live) return;
        const uint8_t* const bytes = warp.scratch() + kCodesAt + lane / kGroupLanes * kGroup;
        uint8_t* const to = codes + uint64_t{mine.group} * kGroupBytes;
        if constexpr (kBits == 4) {
          pack_fours(bytes, mine.count, lane % kGroupLanes, plan.vector, to);
        } else {
          pack_threes(bytes, mine.count, lane % kGroupLanes, to);
        }
      });
    }
  }

  template <class Cell>
  BLATAM_LANES void fetch(Warp& warp, const Plan& plan, uint32_t payload, uint32_t row) {
    const uint8_t* const in = payload_at(plan, payload);
    const uint8_t* const codes = in + uint64_t{row} * plan.row_code_bytes;
    float* const values = reinterpret_cast<float*>(warp.scratch());
    for (uint32_t quad = 0; quad < RotatedRows::quads(plan); ++quad) {
      warp.each([&](unsigned lane) {
        const RowLane mine(plan, quad, lane);
        if (mine.mine == 0) return;
        const float norm =
            Fp16::widen(aligned_load<uint16_t>(in + plan.meta_begin + 2 * uint64_t{row}));
        const uint8_t* const from = codes + uint64_t{mine.group} * kGroupBytes;
        const uint32_t first = lane % kGroupLanes * kLaneValues;
        uint64_t eight = 0;
        if constexpr (kBits == 4) {
          eight = take_fours(from, mine.count, first, mine.mine, plan.vector);
        } else {
          for (uint32_t i = 0; i < mine.mine; ++i)
            eight |= static_cast<uint64_t>(take_three(from, mine.count, first + i)) << (8 * i);
        }
        for (uint32_t i = 0; i < mine.mine; ++i)
          values[mine.begin + i] =
              mul_rn(book_of<kBits>(plan).levels[eight >> (8 * i) & 255], norm);
      });
    }
    turn_row(warp, plan, values);
    store_row<Cell>(warp, plan, payload, row, values);
  }
};

}  // namespace
}  // namespace blatam::cuda
