// First in, first out: a hit changes nothing; the victim is the entry inserted longest ago.
#pragma once

#include "core/slot_list.h"

namespace blatam {

class Fifo final : public Policy {
 public:
  void grow(size_t slots) override { links_.grow(slots); }
  void insert(Slot slot) noexcept override { links_.push_newest(list_, slot); }
  void hit(Slot) noexcept override {}
  [[nodiscard]] Slot victim(const Pins& pins) const noexcept override {
    return links_.oldest_unpinned(list_, pins);
  }
  void remove(Slot slot) noexcept override { links_.unlink(list_, slot); }

 private:
  SlotLinks links_;
  SlotList list_;
};

}  // namespace blatam
