// `channel` (keys of int8_kc, int4_kc): the affine quantiser over each channel of a page of 64
// tokens. A warp takes 32 channels of a page and head: four chunks of eight channels, for each of
// which eight lanes take eight tokens each, t, t + 8, t + 16 ... Those are held in registers while
// the eight lanes find the extremes of each channel, so each value is read once. Internal to the
// file that includes it.
#pragma once

#include "cuda/raw_lanes.h"
#include "cuda/token_lanes.h"

namespace blatam::cuda {
namespace {

constexpr uint32_t kTokenLanes = 8;                                           // of a chunk
constexpr uint32_t kLaneTokens = static_cast<uint32_t>(kPage) / kTokenLanes;  // of a lane
constexpr uint32_t kChunksOfWarp = kLanes / kTokenLanes;

// What a lane has to do with its chunk of channels.
struct ChannelLane {
  bool live;
  uint32_t panel;  // page and head
  uint32_t page;
  uint32_t head;
  uint32_t dim;    // the first channel
  uint32_t count;  // channels
  uint32_t chunk;  // of the warp's
  uint32_t first;  // token of the page

  BLATAM_MEMBER ChannelLane() {}
  BLATAM_MEMBER ChannelLane(const Plan& plan, uint32_t item, unsigned lane) {
    const uint32_t in_panel = (plan.job.head_dim + 31) / 32;  // warps
    panel = item / in_panel;
    page = panel / plan.job.kv_heads;
    head = panel - page * plan.job.kv_heads;
    chunk = lane / kTokenLanes;
    first = lane % kTokenLanes;
    dim = (item - panel * in_panel) * 32 + chunk * kLaneValues;
    live = dim < plan.job.head_dim;
    const uint32_t left = plan.job.head_dim - dim;
    count = !live ? 0 : left < kLaneValues ? left : kLaneValues;
  }
  BLATAM_MEMBER uint32_t token(uint32_t i) const { return first + kTokenLanes * i; }
  BLATAM_MEMBER uint8_t* codes(const Plan& plan, uint8_t* payload) const {
    return payload + uint64_t{panel} * plan.row_code_bytes + dim;
  }
  BLATAM_MEMBER uint8_t* meta(const Plan& plan, uint8_t* payload) const {
    return payload + plan.meta_begin + uint64_t{panel} * plan.row_meta_bytes + 2 * uint64_t{dim};
  }
};

BLATAM_LANES void put_codes(uint8_t* to, uint64_t codes, uint32_t count, bool aligned) {
  if (aligned) return aligned_store(to, codes);
  BLATAM_UNROLL
  for (uint32_t i = 0; i < kLaneValues; ++i) {
    if (i >= count) break;
    to[i] = static_cast<uint8_t>(codes >> (8 * i));
  }
}

template <int kBits>
struct Channel {
  static constexpr uint32_t kRows = kBits == 8 ? kPage : kPage / 2;  // of codes
  // Of each of the warp's channels: its inverse and bias as floats; of each lane its escapes.
  static constexpr uint32_t kScratch = 32 * 8;

  // The slot of a page's token; where it is skipped, of the first that is not.
  BLATAM_LANES int64_t page_slot(const Plan& plan, uint32_t payload, uint32_t page,
                                 uint32_t token) {
    const uint32_t begin = page * static_cast<uint32_t>(kPage);
    int64_t slot = slot_of(plan, payload, begin + token);
    BLATAM_ROLL
    for (uint32_t i = 0; slot == kSkippedSlot && i < kPage; ++i)
      slot = slot_of(plan, payload, begin + i);
    return slot;
  }

  template <class Cell>
  BLATAM_LANES void store_page(Warp& warp, const Plan& plan, uint32_t payload, uint32_t item) {
    using T = typename Cell::Type;
    uint8_t* const out = payload_at(plan, payload);
    struct Held {
      Chunk tokens[kLaneTokens];
    };
    struct Extremes {
      uint32_t of[kLaneValues];
    };
    Warp::PerLane<ChannelLane> lanes;
    Warp::PerLane<Held> held;
    Warp::PerLane<Extremes> ends;
    warp.each([&](unsigned lane) {
      const ChannelLane& mine = lanes[lane] = ChannelLane(plan, item, lane);
      BLATAM_UNROLL
      for (uint32_t j = 0; j < kLaneValues; ++j) ends[lane].of[j] = kNothingSeen;
      if (item == 0) {
        clear_gap(out, plan.codes_end, plan.meta_begin, lane);
        clear_gap(out, plan.meta_end, plan.tail_begin, lane);
      }
      if (!mine.live) return;
      BLATAM_UNROLL
      for (uint32_t i = 0; i < kLaneTokens; ++i) {
        Chunk& chunk = held[lane].tokens[i];
        chunk = Chunk{};
        const int64_t slot = page_slot(plan, payload, mine.page, mine.token(i));
        if (slot != kSkippedSlot)
          chunk = load_chunk<Cell>(
              plan, {token_at(plan, payload, slot), mine.head, mine.dim, mine.count});
        BLATAM_UNROLL
        for (uint32_t j = 0; j < kLaneValues; ++j)
          ends[lane].of[j] = seen(ends[lane].of[j], chunk.get(j));
      }
    });
    // Channel j of a chunk is worked out by its j-th lane.
    Warp::PerLane<uint32_t> extremes;
    BLATAM_UNROLL
    for (uint32_t j = 0; j < kLaneValues; ++j) {
      Warp::PerLane<uint32_t> one;
      warp.each([&](unsigned lane) { one[lane] = ends[lane].of[j]; });
      warp.least_halves(one, kTokenLanes);
      warp.each([&](unsigned lane) {
        if (lane % kTokenLanes == j) extremes[lane] = one[lane];
      });
    }
    warp.each([&](unsigned lane) {
      const ChannelLane& mine = lanes[lane];
      if (!mine.live || mine.first >= mine.count) return;
      const Affine affine = affine_of<T, kBits>(T::widen(lowest_of(extremes[lane])),
                                                T::widen(highest_of(extremes[lane])));
      uint8_t* const meta = mine.meta(plan, out) + 2 * mine.first;
      aligned_store<uint16_t>(meta, affine.scale);
      aligned_store<uint16_t>(meta + 2 * uint64_t{plan.job.head_dim}, affine.minimum);
      const bool escapes = affine.scale == T::Meta::kNan;
      if (escapes) add_bits(plan.job.faults + payload, kEscapes);
      // A channel that escapes has codes of zero, which no inverse gives to every value.
      const uint32_t inverse = escapes ? kNoCodes : bits_of(affine.inverse);
      aligned_store<uint64_t>(warp.scratch() + 8 * lane,
                              inverse | static_cast<uint64_t>(bits_of(affine.bias)) << 32);
    });
    warp.each([&](unsigned lane) {
      const ChannelLane& mine = lanes[lane];
      if (!mine.live) return;
      uint64_t codes[kLaneTokens] = {};
      BLATAM_UNROLL
      for (uint32_t j = 0; j < kLaneValues; ++j) {
        if (j >= mine.count) break;
        const auto how =
            aligned_load<uint64_t>(warp.scratch() + 8 * (mine.chunk * kTokenLanes + j));
        if (static_cast<uint32_t>(how) == kNoCodes) continue;
        const Affine affine = {float_of(static_cast<uint32_t>(how)),
                               float_of(static_cast<uint32_t>(how >> 32)), 0, 0};
        BLATAM_UNROLL
        for (uint32_t i = 0; i < kLaneTokens; ++i)
          codes[i] |=
              static_cast<uint64_t>(code_of<kBits>(T::widen(held[lane].tokens[i].get(j)), affine))
              << (8 * j);
      }
      uint8_t* const to = mine.codes(plan, out);
      if constexpr (kBits == 8) {
        BLATAM_UNROLL
        for (uint32_t i = 0; i < kLaneTokens; ++i)
          put_codes(to + uint64_t{mine.token(i)} * plan.job.head_dim, codes[i], mine.count,
                    plan.vector);
      } else {
        BLATAM_UNROLL
        for (uint32_t i = 0; i < kLaneTokens / 2; ++i)
          put_codes(to + uint64_t{mine.token(i)} * plan.job.head_dim,
                    codes[i] | codes[i + kLaneTokens / 2] << 4, mine.count, plan.vector);
      }
    });
  }

  template <class Cell>
  BLATAM_LANES void fetch_page(Warp& warp, const Plan& plan, uint32_t payload, uint32_t item) {
    using T = typename Cell::Type;
    uint8_t* const in = payload_at(plan, payload);
    warp.each([&](unsigned lane) {
      const ChannelLane mine(plan, item, lane);
      if (!mine.live) return;
      const uint8_t* const meta = mine.meta(plan, in);
      const Chunk scales = take_patterns(plan, meta, mine.count);
      const Chunk minima = take_patterns(plan, meta + 2 * uint64_t{plan.job.head_dim}, mine.count);
      BLATAM_UNROLL
      for (uint32_t i = 0; i < kLaneTokens; ++i) {
        const uint32_t token = mine.token(i);
        const int64_t slot =
            slot_of(plan, payload, mine.page * static_cast<uint32_t>(kPage) + token);
        if (slot == kSkippedSlot) continue;
        const uint8_t* const from =
            mine.codes(plan, in) + uint64_t{token % kRows} * plan.job.head_dim;
        const bool upper = kBits == 4 && token >= kRows;
        const uint64_t codes = take_eights(from, mine.count, plan.vector);
        Chunk chunk = {};
        BLATAM_UNROLL
        for (uint32_t j = 0; j < kLaneValues; ++j) {
          if (j >= mine.count) break;
          auto code = static_cast<uint8_t>(codes >> (8 * j));
          if (kBits == 4) code = static_cast<uint8_t>(upper ? code >> 4 : code & 15u);
          chunk.put(j, T::narrow(value_of<typename T::Meta>(code, scales.get(j), minima.get(j))));
        }
        store_chunk<Cell>(plan, {token_at(plan, payload, slot), mine.head, mine.dim, mine.count},
                          chunk);
      }
    });
  }

  template <class Cell>
  BLATAM_LANES void store(Warp& warp, const Plan& plan, uint32_t payload, uint32_t item) {
    if (item < plan.items) return store_page<Cell>(warp, plan, payload, item);
    store_raw<Cell>(warp, plan, payload, item - plan.items,
                    plan.pages * static_cast<uint32_t>(kPage), plan.tail_begin);
  }
  template <class Cell>
  BLATAM_LANES void fetch(Warp& warp, const Plan& plan, uint32_t payload, uint32_t item) {
    if (item < plan.items) return fetch_page<Cell>(warp, plan, payload, item);
    fetch_raw<Cell>(warp, plan, payload, item - plan.items,
                    plan.pages * static_cast<uint32_t>(kPage), plan.tail_begin);
  }

  // What escapes: the channels of a page, head by head.
  class Units {
   public:
    BLATAM_MEMBER Units(const Plan& plan, const uint8_t* payload)
        : plan_(plan), meta_(payload + plan.meta_begin) {}
    BLATAM_MEMBER uint32_t count() const {
      return plan_.pages * plan_.job.kv_heads * plan_.job.head_dim;
    }
    BLATAM_MEMBER bool escaped(uint32_t unit) const {
      const uint32_t panel = unit / plan_.job.head_dim;
      return aligned_load<uint16_t>(meta_ + uint64_t{panel} * plan_.row_meta_bytes +
                                    2 * uint64_t{dim(unit, 0)}) == Bf16::kNan;
    }
    BLATAM_MEMBER uint32_t length(uint32_t /*unit*/) const { return static_cast<uint32_t>(kPage); }
    BLATAM_MEMBER uint32_t token(uint32_t unit, uint32_t i) const {
      return unit / plan_.job.head_dim / plan_.job.kv_heads * static_cast<uint32_t>(kPage) + i;
    }
    BLATAM_MEMBER int64_t slot(uint32_t payload, uint32_t unit, uint32_t i) const {
      return page_slot(plan_, payload, unit / plan_.job.head_dim / plan_.job.kv_heads, i);
    }
    BLATAM_MEMBER uint32_t head(uint32_t unit, uint32_t /*i*/) const {
      return unit / plan_.job.head_dim % plan_.job.kv_heads;
    }
    BLATAM_MEMBER uint32_t dim(uint32_t unit, uint32_t /*i*/) const {
      return unit % plan_.job.head_dim;
    }

   private:
    const Plan& plan_;
    const uint8_t* meta_;
  };

 private:
  static constexpr uint32_t kNoCodes = 0xffffffffu;  // no inverse has this pattern
};

}  // namespace
}  // namespace blatam::cuda
