// RankQueues finds the slot of the lowest rank among any number, where ranks come in classes: in
// each class a slot that is pushed later never ranks lower. A class is then a queue, and only the
// heads of queues need to be compared: a heap of a few hundred, whatever the number of slots
// (Ghandeharizadeh, Irani, Lam, Yap: CAMP, Middleware 2014). Where ranks are equal the higher class
// goes first, and within a class the one pushed first.
//
// Ranks are unsigned and may wrap: those present at a time must span less than half their range.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/slot_list.h"

namespace blatam {

// A positive number cut to `bits` of its mantissa: consecutive integers for consecutive such
// numbers, which may serve as classes.
constexpr uint64_t cut(double value, unsigned bits) noexcept {
  return std::bit_cast<uint64_t>(value) >> (52 - bits);
}
constexpr double uncut(uint64_t value, unsigned bits) noexcept {
  return std::bit_cast<double>(value << (52 - bits));
}

template <class Rank>
class RankQueues {
 public:
  using Class = uint16_t;

  explicit RankQueues(Class classes) : queues_(classes), place_(classes) { heap_.reserve(classes); }

  void grow(size_t slots) {
    links_.grow(slots);
    if (slots <= ranks_.size()) return;
    ranks_.resize(slots);
    class_of_.resize(slots);
  }

  [[nodiscard]] Rank rank(Slot slot) const noexcept { return ranks_[slot]; }

  // Requires slot not inside, and no rank in this class to be above.
  void push(Class where, Slot slot, Rank rank) noexcept {
    ranks_[slot] = rank;
    class_of_[slot] = where;
    const bool first = queues_[where].empty();
    links_.push_newest(queues_[where], slot);
    if (!first) return;
    heap_.push_back(where);
    rise(heap_.size() - 1);
  }

  void remove(Slot slot) noexcept {
    const Class where = class_of_[slot];
    const bool head = queues_[where].oldest == slot;
    links_.unlink(queues_[where], slot);
    if (!head) return;
    const size_t place = place_[where];
    if (queues_[where].empty()) {
      const Class last = heap_.back();
      heap_.pop_back();
      if (last == where) return;
      heap_[place] = last;
      place_[last] = static_cast<Class>(place);
      rise(place);
      sink(place_[last]);
    } else {
      sink(place);
    }
  }

  // The slot of the lowest rank that is not pinned, or kNoSlot.
  [[nodiscard]] Slot lowest(const Pins& pins) const noexcept {
    if (heap_.empty()) return kNoSlot;
    const Slot slot = queues_[heap_.front()].oldest;
    return pins.holds(slot) ? lowest_of_all(pins) : slot;
  }

  [[nodiscard]] Policy::Guess next() const noexcept {
    if (heap_.empty()) return {};
    const Slot slot = queues_[heap_.front()].oldest;
    return {slot, links_.newer(slot)};
  }

  [[nodiscard]] size_t memory_bytes() const noexcept {
    return links_.memory_bytes() + ranks_.capacity() * sizeof(Rank) +
           class_of_.capacity() * sizeof(Class) + queues_.capacity() * sizeof(SlotList) +
           (heap_.capacity() + place_.capacity()) * sizeof(Class);
  }

 private:
  [[nodiscard]] bool before(Slot a, Slot b) const noexcept {
    const Rank gap = ranks_[b] - ranks_[a];
    if (gap == 0) return class_of_[a] > class_of_[b];
    return gap < Rank{1} << (8 * sizeof(Rank) - 1);
  }
  [[nodiscard]] bool before(Class a, Class b) const noexcept {
    return before(queues_[a].oldest, queues_[b].oldest);
  }

  void rise(size_t at) noexcept {
    const Class moving = heap_[at];
    for (; at != 0 && before(moving, heap_[(at - 1) / 2]); at = (at - 1) / 2) {
      put(at, heap_[(at - 1) / 2]);
    }
    put(at, moving);
  }
  void sink(size_t at) noexcept {
    const Class moving = heap_[at];
    for (;;) {
      size_t child = 2 * at + 1;
      if (child >= heap_.size()) break;
      if (child + 1 < heap_.size() && before(heap_[child + 1], heap_[child])) ++child;
      if (!before(heap_[child], moving)) break;
      put(at, heap_[child]);
      at = child;
    }
    put(at, moving);
  }
  void put(size_t at, Class where) noexcept {
    heap_[at] = where;
    place_[where] = static_cast<Class>(at);
  }

  [[nodiscard]] Slot lowest_of_all(const Pins& pins) const noexcept {
    Slot lowest = kNoSlot;
    for (const Class where : heap_) {
      const Slot slot = links_.oldest_unpinned(queues_[where], pins);
      if (slot != kNoSlot && (lowest == kNoSlot || before(slot, lowest))) lowest = slot;
    }
    return lowest;
  }

  SlotLinks links_;
  std::vector<Rank> ranks_;
  std::vector<Class> class_of_;
  std::vector<SlotList> queues_;
  std::vector<Class> heap_;   // of classes that hold a slot
  std::vector<Class> place_;  // of a class in the heap
};

}  // namespace blatam
