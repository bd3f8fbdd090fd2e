// SIEVE (Zhang et al., NSDI 2024): one queue in order of insertion and a hand that walks it from
// the oldest to the newest. A hit only marks its entry; the hand removes the first it meets without
// a mark and takes the mark from the others. What is kept never moves, so new and old mix: good on
// skewed popularity, defenceless against scans.
#pragma once

#include <vector>

#include "core/slot_list.h"

namespace blatam {

class Sieve final : public Policy {
 public:
  void grow(size_t slots) override {
    links_.grow(slots);
    if (slots > visited_.size()) visited_.resize(slots);
  }
  void insert(Slot slot, const Item&) noexcept override {
    visited_[slot] = 0;
    links_.push_newest(queue_, slot);
    ++size_;
  }
  void hit(Slot slot) noexcept override { visited_[slot] = 1; }

  [[nodiscard]] Slot evict(const Pins& pins, const Item*) noexcept override {
    // The first round takes the marks, so the second finds one, unless all are pinned.
    for (size_t steps = 2 * size_; steps != 0; --steps) {
      const Slot slot = hand_ != kNoSlot ? hand_ : queue_.oldest;
      hand_ = links_.newer(slot);
      if (pins.holds(slot)) continue;
      if (visited_[slot] == 0) {
        links_.unlink(queue_, slot);
        --size_;
        return slot;
      }
      visited_[slot] = 0;
    }
    return kNoSlot;
  }

  [[nodiscard]] Guess next_victims() const noexcept override {
    const Slot slot = hand_ != kNoSlot ? hand_ : queue_.oldest;
    if (slot == kNoSlot) return {};
    return {slot, links_.newer(slot)};
  }

  void remove(Slot slot) noexcept override {
    if (slot == hand_) hand_ = links_.newer(slot);
    links_.unlink(queue_, slot);
    --size_;
  }
  [[nodiscard]] size_t memory_bytes() const noexcept override {
    return links_.memory_bytes() + visited_.capacity();
  }

 private:
  SlotLinks links_;
  SlotList queue_;
  std::vector<uint8_t> visited_;
  Slot hand_ = kNoSlot;  // kNoSlot: at the oldest
  size_t size_ = 0;
};

}  // namespace blatam
