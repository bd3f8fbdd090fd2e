// `token` (int8, int4): the affine quantiser over groups of 64 along a row. Eight lanes take a
// group, eight values each, so a warp takes four; the extremes of a group are found by eight lanes
// handing them round, and each value is read once. Internal to the file that includes it.
#pragma once

#include "cuda/cells.h"
#include "kernels/affine.h"
#include "kernels/packing.h"

namespace blatam::cuda {
namespace {

constexpr uint32_t kGroupLanes = 8;
constexpr uint32_t kGroupsInWarp = kLanes / kGroupLanes;

// 16-bit patterns in the order of their values; see key_of.
BLATAM_LANES uint32_t key16_of(uint16_t bits) {
  return bits & 0x8000u ? ~static_cast<uint32_t>(bits) & 0xffffu : bits | 0x8000u;
}
BLATAM_LANES uint16_t bits_of_key16(uint32_t key) {
  return static_cast<uint16_t>(key & 0x8000u ? key & 0x7fffu : ~key & 0xffffu);
}

// The extremes of what a lane has seen, in one word: the least key, and above it what the greatest
// leaves to the top. Of two such words the lesser halves are the extremes of both.
constexpr uint32_t kNothingSeen = 0xffffffffu;
BLATAM_LANES uint32_t seen(uint32_t extremes, uint16_t bits) {
  const uint32_t key = key16_of(bits);
  return lesser_halves(extremes, key | (0xffffu - key) << 16);
}
BLATAM_LANES uint16_t lowest_of(uint32_t extremes) { return bits_of_key16(extremes & 0xffffu); }
BLATAM_LANES uint16_t highest_of(uint32_t extremes) {
  return bits_of_key16(0xffffu - (extremes >> 16));
}

// What a lane has to do with its group.
struct GroupLane {
  bool live;       // there is such a group
  uint32_t group;  // of the payload
  uint32_t row;
  uint32_t in_row;  // the group's number in its row
  uint32_t count;   // values of the group
  uint32_t token;
  uint32_t first;  // the lane's first value in the group
  uint32_t mine;   // how many it has
  Stretch at;      // where, but for the token's memory

  BLATAM_MEMBER GroupLane() {}
  BLATAM_MEMBER GroupLane(const Plan& plan, uint32_t item, unsigned lane) {
    group = item * kGroupsInWarp + lane / kGroupLanes;
    row = group / plan.row_groups;
    live = row < plan.rows;
    in_row = group - row * plan.row_groups;
    const uint32_t begin = in_row * static_cast<uint32_t>(kGroup);
    const uint32_t left = plan.row_values - begin;
    count = left < kGroup ? left : static_cast<uint32_t>(kGroup);
    first = lane % kGroupLanes * kLaneValues;
    mine = first >= count ? 0 : count - first < kLaneValues ? count - first : kLaneValues;
    const uint32_t value = begin + first;
    if (plan.whole_tokens) {
      token = row;
      at.head = value / plan.job.head_dim;
      at.dim = value - at.head * plan.job.head_dim;
    } else {
      token = row / plan.job.kv_heads;
      at.head = row - token * plan.job.kv_heads;
      at.dim = value;
    }
    at.count = mine;
    at.token = nullptr;
  }
  BLATAM_MEMBER bool leads() const { return first == 0; }
};

// The packed codes of a group of `count`, of which `codes` holds one a byte; each of eight lanes
// writes its part.
BLATAM_LANES void pack_fours(const uint8_t* codes, uint32_t count, unsigned part, bool aligned,
                             uint8_t* to) {
  const uint32_t half = (count + 1) / 2;
  const uint32_t begin = 4 * part;
  if (aligned && count == kGroup) {
    const auto low = aligned_load<uint32_t>(codes + begin);
    const auto high = aligned_load<uint32_t>(codes + half + begin);
    aligned_store<uint32_t>(to + begin, low | high << 4);
    return;
  }
  for (uint32_t j = begin; j < begin + 4 && j < half; ++j) {
    const unsigned high = j + half < count ? codes[j + half] : 0u;
    to[j] = static_cast<uint8_t>(codes[j] | high << 4);
  }
}

// Codes first .. first + mine of a group of `count`, one a byte.
BLATAM_LANES uint64_t take_fours(const uint8_t* from, uint32_t count, uint32_t first, uint32_t mine,
                                 bool aligned) {
  const uint32_t half = (count + 1) / 2;
  if (aligned && count == kGroup) {
    constexpr uint64_t kLow = 0x0f0f0f0f0f0f0f0fu;
    const bool upper = first >= half;
    const uint8_t* const at = from + (upper ? first - half : first);
    const uint64_t both =
        aligned_load<uint32_t>(at) | static_cast<uint64_t>(aligned_load<uint32_t>(at + 4)) << 32;
    return (upper ? both >> 4 : both) & kLow;
  }
  uint64_t codes = 0;
  for (uint32_t i = 0; i < mine; ++i) {
    const uint32_t j = first + i;
    const uint32_t code = j < half ? from[j] & 15u : static_cast<uint32_t>(from[j - half]) >> 4;
    codes |= static_cast<uint64_t>(code) << (8 * i);
  }
  return codes;
}
BLATAM_LANES uint64_t take_eights(const uint8_t* from, uint32_t mine, bool aligned) {
  if (aligned) return aligned_load<uint64_t>(from);
  uint64_t codes = 0;
  for (uint32_t i = 0; i < mine; ++i) codes |= static_cast<uint64_t>(from[i]) << (8 * i);
  return codes;
}

// Zeros between two planes, by the first lanes of a payload's first warp.
BLATAM_LANES void clear_gap(uint8_t* payload, uint32_t begin, uint64_t end, unsigned lane) {
  if (begin + lane < end) payload[begin + lane] = 0;
}

template <int kBits>
struct Token {
  static constexpr uint32_t kScratch = kGroupsInWarp * static_cast<uint32_t>(kGroup);

  BLATAM_LANES uint64_t codes_of(const Plan& plan, const GroupLane& lane) {
    return uint64_t{lane.row} * plan.row_code_bytes + uint64_t{lane.in_row} * code_bytes_of_group();
  }
  BLATAM_LANES constexpr uint32_t code_bytes_of_group() { return kBits == 8 ? 64 : 32; }

  template <class Cell>
  BLATAM_LANES void store(Warp& warp, const Plan& plan, uint32_t payload, uint32_t item) {
    using T = typename Cell::Type;
    uint8_t* const out = payload_at(plan, payload);
    Warp::PerLane<GroupLane> group;
    Warp::PerLane<Chunk> held;
    Warp::PerLane<uint32_t> extremes;
    warp.each([&](unsigned lane) {
      GroupLane& mine = group[lane] = GroupLane(plan, item, lane);
      held[lane] = Chunk{};
      extremes[lane] = kNothingSeen;
      if (item == 0) clear_gap(out, plan.codes_end, plan.meta_begin, lane);
      if (!mine.live || mine.mine == 0) return;
      const int64_t slot = slot_of(plan, payload, mine.token);
      if (slot != kSkippedSlot) {
        mine.at.token = token_at(plan, payload, slot);
        held[lane] = load_chunk<Cell>(plan, mine.at);
      }
      BLATAM_UNROLL
      for (uint32_t i = 0; i < kLaneValues; ++i) {
        if (i >= mine.mine) break;
        extremes[lane] = seen(extremes[lane], held[lane].get(i));
      }
    });
    warp.least_halves(extremes, kGroupLanes);
    warp.each([&](unsigned lane) {
      const GroupLane& mine = group[lane];
      if (!mine.live) return;
      const Affine affine = affine_of<T, kBits>(T::widen(lowest_of(extremes[lane])),
                                                T::widen(highest_of(extremes[lane])));
      const bool escapes = affine.scale == T::Meta::kNan;
      if (mine.leads()) {
        aligned_store<uint32_t>(out + plan.meta_begin + uint64_t{mine.group} * kMetaBytes,
                                affine.scale | static_cast<uint32_t>(affine.minimum) << 16);
        if (escapes) add_bits(plan.job.faults + payload, kEscapes);
      }
      uint64_t codes = 0;
      BLATAM_UNROLL
      for (uint32_t i = 0; i < kLaneValues; ++i) {
        if (i >= mine.mine || escapes) break;
        codes |= static_cast<uint64_t>(code_of<kBits>(T::widen(held[lane].get(i)), affine))
                 << (8 * i);
      }
      if constexpr (kBits == 8) {
        uint8_t* const to = out + codes_of(plan, mine) + mine.first;
        if (plan.vector && mine.mine == kLaneValues) return aligned_store(to, codes);
        for (uint32_t i = 0; i < mine.mine; ++i) to[i] = static_cast<uint8_t>(codes >> (8 * i));
      } else {
        aligned_store(warp.scratch() + lane * kLaneValues, codes);
      }
    });
    if constexpr (kBits == 4) {
      warp.each([&](unsigned lane) {
        const GroupLane& mine = group[lane];
        if (!mine.live) return;
        pack_fours(warp.scratch() + lane / kGroupLanes * kGroup, mine.count, lane % kGroupLanes,
                   plan.vector, out + codes_of(plan, mine));
      });
    }
  }

  template <class Cell>
  BLATAM_LANES void fetch(Warp& warp, const Plan& plan, uint32_t payload, uint32_t item) {
    using T = typename Cell::Type;
    const uint8_t* const in = payload_at(plan, payload);
    warp.each([&](unsigned lane) {
      GroupLane mine(plan, item, lane);
      if (!mine.live || mine.mine == 0) return;
      const int64_t slot = slot_of(plan, payload, mine.token);
      if (slot == kSkippedSlot) return;
      mine.at.token = token_at(plan, payload, slot);
      const auto meta =
          aligned_load<uint32_t>(in + plan.meta_begin + uint64_t{mine.group} * kMetaBytes);
      const uint8_t* const from = in + codes_of(plan, mine);
      const uint64_t codes = kBits == 8
                                 ? take_eights(from + mine.first, mine.mine, plan.vector)
                                 : take_fours(from, mine.count, mine.first, mine.mine, plan.vector);
      Chunk chunk = {};
      BLATAM_UNROLL
      for (uint32_t i = 0; i < kLaneValues; ++i) {
        if (i >= mine.mine) break;
        const float value = value_of<typename T::Meta>(static_cast<uint8_t>(codes >> (8 * i)),
                                                       static_cast<uint16_t>(meta),
                                                       static_cast<uint16_t>(meta >> 16));
        chunk.put(i, T::narrow(value));
      }
      store_chunk<Cell>(plan, mine.at, chunk);
    });
  }

  // What escapes: groups.
  class Units {
   public:
    BLATAM_MEMBER Units(const Plan& plan, const uint8_t* payload)
        : plan_(plan), meta_(payload + plan.meta_begin) {}
    BLATAM_MEMBER uint32_t count() const { return plan_.rows * plan_.row_groups; }
    BLATAM_MEMBER bool escaped(uint32_t unit) const {
      return aligned_load<uint16_t>(meta_ + uint64_t{unit} * kMetaBytes) == Bf16::kNan;
    }
    BLATAM_MEMBER uint32_t length(uint32_t unit) const {
      const uint32_t left = plan_.row_values - in_row(unit, 0);
      return left < kGroup ? left : static_cast<uint32_t>(kGroup);
    }
    BLATAM_MEMBER uint32_t token(uint32_t unit, uint32_t /*i*/) const {
      const uint32_t row = unit / plan_.row_groups;
      return plan_.whole_tokens ? row : row / plan_.job.kv_heads;
    }
    BLATAM_MEMBER int64_t slot(uint32_t payload, uint32_t unit, uint32_t i) const {
      return slot_of(plan_, payload, token(unit, i));
    }
    BLATAM_MEMBER uint32_t head(uint32_t unit, uint32_t i) const {
      return plan_.whole_tokens ? in_row(unit, i) / plan_.job.head_dim
                                : unit / plan_.row_groups % plan_.job.kv_heads;
    }
    BLATAM_MEMBER uint32_t dim(uint32_t unit, uint32_t i) const {
      return plan_.whole_tokens ? in_row(unit, i) % plan_.job.head_dim : in_row(unit, i);
    }

   private:
    BLATAM_MEMBER uint32_t in_row(uint32_t unit, uint32_t i) const {
      return unit % plan_.row_groups * static_cast<uint32_t>(kGroup) + i;
    }
    const Plan& plan_;
    const uint8_t* meta_;
  };
};

}  // namespace
}  // namespace blatam::cuda
