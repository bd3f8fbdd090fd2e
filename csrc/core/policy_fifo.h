// First in, first out: a hit changes nothing; the victim is the entry inserted longest ago.
#pragma once

#include "core/slot_list.h"

namespace blatam {

class Fifo final : public Policy {
 public:
  void grow(size_t slots) override { links_.grow(slots); }
  void insert(Slot slot, const Item&) noexcept override { links_.push_newest(list_, slot); }
  void hit(Slot) noexcept override {}
  [[nodiscard]] Slot evict(const Pins& pins, const Item*) noexcept override {
    const Slot slot = links_.oldest_unpinned(list_, pins);
    if (slot != kNoSlot) links_.unlink(list_, slot);
    return slot;
  }
  [[nodiscard]] Guess next_victims() const noexcept override {
    if (list_.empty()) return {};
    return {list_.oldest, links_.newer(list_.oldest)};
  }
  void remove(Slot slot) noexcept override { links_.unlink(list_, slot); }
  [[nodiscard]] size_t memory_bytes() const noexcept override { return links_.memory_bytes(); }

 private:
  SlotLinks links_;
  SlotList list_;
};

}  // namespace blatam
