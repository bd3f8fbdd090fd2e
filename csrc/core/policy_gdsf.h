// GDSF, greedy dual size frequency (Cherkasova 1998): the entry of the lowest priority leaves,
// which is its value, uses * cost / size, plus what the clock showed at its last use. The clock
// shows the highest priority that has left so far, so what is not used grows old. Many small
// entries beat one large one: best for the share of requests that hit, seldom for the share of
// bytes.
//
// Values are cut to five significant bits, so that they form classes in which the priority can only
// grow (see rank_queues.h): O(1) a use and O(log of some hundred) an eviction, however many entries
// there are. Equal priorities leave in order of last use. Values from 2^-60 to 2^40 are told apart.
//
// The clock is a fixed-point number of 128 bits, half of them below the point. A floating one,
// after long enough, no longer moves when a small value is added.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "core/rank_queues.h"

namespace blatam {

class Gdsf final : public Policy {
 public:
  void grow(size_t slots) override {
    queues_.grow(slots);
    if (slots > uses_.size()) uses_.resize(slots);
  }

  void insert(Slot slot, const Item& item) noexcept override {
    uses_[slot] = {worth(item), 1};
    enter(slot);
  }
  void hit(Slot slot) noexcept override {
    queues_.remove(slot);
    Uses& uses = uses_[slot];
    if (uses.count != std::numeric_limits<uint32_t>::max()) ++uses.count;
    enter(slot);
  }
  void update(Slot slot, const Item& item) noexcept override {
    uses_[slot].worth = worth(item);
    hit(slot);
  }

  [[nodiscard]] Slot evict(const Pins& pins, const Item*) noexcept override {
    const Slot slot = queues_.lowest(pins);
    if (slot == kNoSlot) return kNoSlot;
    // One that was pinned for long may rank below the clock, which never goes back.
    const Wide ahead = queues_.rank(slot) - clock_;
    if (ahead >> 127 == 0) clock_ += ahead;
    queues_.remove(slot);
    return slot;
  }

  [[nodiscard]] Guess next_victims() const noexcept override { return queues_.next(); }
  void remove(Slot slot) noexcept override { queues_.remove(slot); }
  [[nodiscard]] uint64_t uses(Slot slot) const noexcept override { return uses_[slot].count; }
  [[nodiscard]] size_t memory_bytes() const noexcept override {
    return queues_.memory_bytes() + uses_.capacity() * sizeof(Uses);
  }

 private:
  __extension__ using Wide = unsigned __int128;
  struct Uses {
    double worth = 0;  // of one
    uint32_t count = 0;
  };

  static constexpr unsigned kBits = 4;  // and the leading one
  static constexpr uint64_t kLowest = cut(0x1p-60, kBits);
  static constexpr uint64_t kHighest = cut(0x1p40, kBits) - 1;

  static double worth(const Item& item) noexcept {
    return item.cost / static_cast<double>(std::max<uint64_t>(item.size, 1));
  }

  void enter(Slot slot) noexcept {
    const double value = uses_[slot].worth * uses_[slot].count;
    // Not above the lowest: also what is negative or no number.
    const uint64_t bits = value > 0x1p-60 ? std::min(cut(value, kBits), kHighest) : kLowest;
    const auto where = static_cast<uint16_t>(bits - kLowest);
    queues_.push(where, slot, clock_ + (Wide{16u + where % 16u} << (where / 16)));
  }

  RankQueues<Wide> queues_{static_cast<uint16_t>(kHighest - kLowest + 1)};
  std::vector<Uses> uses_;
  Wide clock_ = 0;
};

}  // namespace blatam
