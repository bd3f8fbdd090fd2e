// A doubly linked list of slots whose links live in one array shared by any number of lists: 8
// bytes a slot, no allocation after grow(). A slot is in at most one list of a SlotLinks at a time.
#pragma once

#include <vector>

#include "core/policy.h"

namespace blatam {

struct SlotList {
  Slot newest = kNoSlot;
  Slot oldest = kNoSlot;
  [[nodiscard]] bool empty() const noexcept { return newest == kNoSlot; }
};

class SlotLinks {
 public:
  void grow(size_t slots) {
    if (slots > links_.size()) links_.resize(slots);
  }

  void push_newest(SlotList& list, Slot slot) noexcept {
    links_[slot] = {kNoSlot, list.newest};
    if (list.newest != kNoSlot) {
      links_[list.newest].newer = slot;
    } else {
      list.oldest = slot;
    }
    list.newest = slot;
  }

  void unlink(SlotList& list, Slot slot) noexcept {
    const Link link = links_[slot];
    if (link.newer != kNoSlot) {
      links_[link.newer].older = link.older;
    } else {
      list.newest = link.older;
    }
    if (link.older != kNoSlot) {
      links_[link.older].newer = link.newer;
    } else {
      list.oldest = link.newer;
    }
  }

  void push_oldest(SlotList& list, Slot slot) noexcept {
    links_[slot] = {list.oldest, kNoSlot};
    if (list.oldest != kNoSlot) {
      links_[list.oldest].older = slot;
    } else {
      list.newest = slot;
    }
    list.oldest = slot;
  }

  [[nodiscard]] Slot older(Slot slot) const noexcept { return links_[slot].older; }
  [[nodiscard]] Slot newer(Slot slot) const noexcept { return links_[slot].newer; }

  [[nodiscard]] size_t memory_bytes() const noexcept { return links_.capacity() * sizeof(Link); }

  // The oldest slot that is not pinned, or kNoSlot.
  [[nodiscard]] Slot oldest_unpinned(const SlotList& list, const Pins& pins) const noexcept {
    Slot slot = list.oldest;
    while (slot != kNoSlot && pins.holds(slot)) slot = links_[slot].newer;
    return slot;
  }

 private:
  struct Link {
    Slot newer = kNoSlot;
    Slot older = kNoSlot;
  };
  std::vector<Link> links_;
};

}  // namespace blatam
