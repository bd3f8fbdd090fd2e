// `rotated` (int4_rot): a warp turns a row, then quantises its groups, four at a time, as
// token_lanes.h does. A row escapes as a whole. Internal to the file that includes it.
#pragma once

#include "cuda/token_lanes.h"
#include "cuda/turn.h"

namespace blatam::cuda {
namespace {

constexpr uint32_t kMostRowGroups = kMostRotated / static_cast<uint32_t>(kGroup);
constexpr uint32_t kRowBytes = kMostRotated * 4;  // the row as floats, at the scratch's beginning
constexpr uint32_t kCodesBytes = kGroupsInWarp * static_cast<uint32_t>(kGroup);

// A lane's eight values of group `quad` * 4 + lane / 8 of a row.
struct RowLane {
  bool live;
  uint32_t group;
  uint32_t count;  // of the group
  uint32_t begin;  // the lane's first value, in the row
  uint32_t mine;

  BLATAM_MEMBER RowLane(const Plan& plan, uint32_t quad, unsigned lane) {
    group = quad * kGroupsInWarp + lane / kGroupLanes;
    live = group < plan.row_groups;
    const uint32_t first = group * static_cast<uint32_t>(kGroup);
    const uint32_t left = live ? plan.row_values - first : 0;
    count = left < kGroup ? left : static_cast<uint32_t>(kGroup);
    const uint32_t in_group = lane % kGroupLanes * kLaneValues;
    begin = first + in_group;
    mine = in_group >= count ? 0 : count - in_group < kLaneValues ? count - in_group : kLaneValues;
  }
};

struct RotatedRows {
  static constexpr int kBits = 4;
  // Of each group its Affine, then codes, one a byte.
  static constexpr uint32_t kAffinesAt = kRowBytes;
  static constexpr uint32_t kCodesAt = kAffinesAt + kMostRowGroups * 16;
  static constexpr uint32_t kScratch = kCodesAt + kCodesBytes;

  using Units = RowUnits;

  BLATAM_LANES uint32_t quads(const Plan& plan) {
    return (plan.row_groups + kGroupsInWarp - 1) / kGroupsInWarp;
  }

  // How each group is quantised, into the scratch. True if one escapes.
  template <class T>
  BLATAM_LANES bool work_out(Warp& warp, const Plan& plan, const float* row) {
    bool escapes = false;
    for (uint32_t quad = 0; quad < quads(plan); ++quad) {
      Warp::PerLane<uint32_t> low;
      Warp::PerLane<uint32_t> high;
      Warp::PerLane<bool> bad;
      warp.each([&](unsigned lane) {
        low[lane] = 0xffffffffu;
        high[lane] = 0;
        const RowLane mine(plan, quad, lane);
        for (uint32_t i = 0; i < mine.mine; ++i) {
          const uint32_t key = key_of(bits_of(row[mine.begin + i]));
          low[lane] = key < low[lane] ? key : low[lane];
          high[lane] = key > high[lane] ? key : high[lane];
        }
      });
      warp.least(low, kGroupLanes);
      warp.greatest(high, kGroupLanes);
      warp.each([&](unsigned lane) {
        bad[lane] = false;
        const RowLane mine(plan, quad, lane);
        if (!mine.live) return;
        const Affine affine = affine_of<Rotated<T>, kBits>(float_of(bits_of_key(low[lane])),
                                                           float_of(bits_of_key(high[lane])));
        bad[lane] = affine.scale == T::Meta::kNan;
        if (lane % kGroupLanes == 0)
          aligned_store<Affine>(warp.scratch() + kAffinesAt + 16 * mine.group, affine);
      });
      escapes = warp.any(bad) || escapes;
    }
    return escapes;
  }

  template <class Cell>
  BLATAM_LANES void store(Warp& warp, const Plan& plan, uint32_t payload, uint32_t row) {
    using T = typename Cell::Type;
    uint8_t* const out = payload_at(plan, payload);
    float* const values = reinterpret_cast<float*>(warp.scratch());
    const uint32_t greatest = load_row<Cell>(warp, plan, payload, row, values);
    bool escapes = greatest >= kRotationLimit;
    if (!escapes) {
      turn_row(warp, plan, values);
      escapes = work_out<T>(warp, plan, values);
    }
    uint8_t* const codes = out + uint64_t{row} * plan.row_code_bytes;
    uint8_t* const meta = out + plan.meta_begin + uint64_t{row} * plan.row_meta_bytes;
    for (uint32_t quad = 0; quad < quads(plan); ++quad) {
      warp.each([&](unsigned lane) {
        if (row == 0 && quad == 0) clear_gap(out, plan.codes_end, plan.meta_begin, lane);
        const RowLane mine(plan, quad, lane);
        if (!mine.live) return;
        Affine affine = {0.0f, 0.0f, T::Meta::kNan, 0};
        if (!escapes) affine = aligned_load<Affine>(warp.scratch() + kAffinesAt + 16 * mine.group);
        if (lane % kGroupLanes == 0)
          aligned_store<uint32_t>(meta + kMetaBytes * mine.group,
                                  affine.scale | static_cast<uint32_t>(affine.minimum) << 16);
        uint64_t eight = 0;
        for (uint32_t i = 0; i < mine.mine && !escapes; ++i)
          eight |= static_cast<uint64_t>(code_of<kBits>(values[mine.begin + i], affine)) << (8 * i);
        aligned_store(warp.scratch() + kCodesAt + lane * kLaneValues, eight);
        if (escapes && quad == 0 && lane == 0) add_bits(plan.job.faults + payload, kEscapes);
      });
      warp.each([&](unsigned lane) {
        const RowLane mine(plan, quad, lane);
        if (!mine.live) return;
        pack_fours(warp.scratch() + kCodesAt + lane / kGroupLanes * kGroup, mine.count,
                   lane % kGroupLanes, plan.vector, codes + uint64_t{mine.group} * (kGroup / 2));
      });
    }
  }

  template <class Cell>
  BLATAM_LANES void fetch(Warp& warp, const Plan& plan, uint32_t payload, uint32_t row) {
    using T = typename Cell::Type;
    const uint8_t* const in = payload_at(plan, payload);
    const uint8_t* const codes = in + uint64_t{row} * plan.row_code_bytes;
    const uint8_t* const meta = in + plan.meta_begin + uint64_t{row} * plan.row_meta_bytes;
    float* const values = reinterpret_cast<float*>(warp.scratch());
    for (uint32_t quad = 0; quad < quads(plan); ++quad) {
      warp.each([&](unsigned lane) {
        const RowLane mine(plan, quad, lane);
        if (mine.mine == 0) return;
        const auto how = aligned_load<uint32_t>(meta + kMetaBytes * mine.group);
        const uint32_t first = lane % kGroupLanes * kLaneValues;
        const uint64_t eight = take_fours(codes + uint64_t{mine.group} * (kGroup / 2), mine.count,
                                          first, mine.mine, plan.vector);
        for (uint32_t i = 0; i < mine.mine; ++i)
          values[mine.begin + i] = value_of<typename T::Meta>(
              static_cast<uint8_t>(eight >> (8 * i)), static_cast<uint16_t>(how),
              static_cast<uint16_t>(how >> 16));
      });
    }
    turn_row(warp, plan, values);
    store_row<Cell>(warp, plan, payload, row, values);
  }
};

}  // namespace
}  // namespace blatam::cuda
