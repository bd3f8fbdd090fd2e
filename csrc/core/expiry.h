// Expiry keeps the deadlines of slots in a hierarchical timing wheel (Varghese and Lauck 1987):
// setting and clearing one is O(1), and finding those that have passed is amortised O(1) an entry,
// however many there are. Not thread-safe; reads no clock.
//
// passed() is exact. due() hands out what is to be removed up to one tick (17 ms) late, and never
// early. A deadline that moves later leaves its place in the wheel alone: due() meets it there,
// sees that it is not yet time, and files it anew. So extending a deadline on every use is a store.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/policy.h"

namespace blatam {

// Nanoseconds of any clock that never goes back; 0 as a deadline means "never".
using Nanoseconds = uint64_t;

class Expiry {
 public:
  explicit Expiry(Nanoseconds now) : time_(now), nodes_(kLists) {
    for (uint32_t list = 0; list < kLists; ++list) nodes_[list] = {list, list};
  }

  void grow(size_t slots) {
    if (slots <= deadlines_.size()) return;
    nodes_.resize(kLists + slots);
    deadlines_.resize(slots);
  }

  [[nodiscard]] Nanoseconds deadline(Slot slot) const noexcept { return deadlines_[slot]; }
  [[nodiscard]] bool passed(Slot slot, Nanoseconds now) const noexcept {
    return deadlines_[slot] != 0 && deadlines_[slot] <= now;
  }

  // 0: never. Requires slot < the last grow().
  void set(Slot slot, Nanoseconds deadline) noexcept {
    const Nanoseconds old = deadlines_[slot];
    deadlines_[slot] = deadline;
    if (old != 0 && deadline >= old) return;
    if (old != 0) unlink(kLists + slot);
    if (deadline != 0) file(slot);
  }

  // A slot whose deadline has passed, or kNoSlot: none is known, or `budget` steps were taken to
  // look. Each call counts the steps it took down from `budget`. The caller clears the deadline,
  // by set(slot, 0), before it asks again.
  [[nodiscard]] Slot due(Nanoseconds now, unsigned& budget) noexcept {
    advance(now);
    while (budget != 0) {
      const uint32_t node = nodes_[kDue].next;
      if (node == kDue) break;
      --budget;
      const Slot slot = node - kLists;
      if (passed(slot, now)) return slot;
      unlink(node);
      file(slot);
    }
    return kNoSlot;
  }

  [[nodiscard]] size_t memory_bytes() const noexcept {
    return nodes_.capacity() * sizeof(Node) + deadlines_.capacity() * sizeof(Nanoseconds);
  }

 private:
  // Circular lists: the first kLists nodes are their heads, the others the slots. Unlinking does
  // not need to know the list, so a whole bucket becomes due by one splice.
  struct Node {
    uint32_t prev = 0;
    uint32_t next = 0;
  };
  // Ticks of 17 ms, 1.1 s, 69 s, 73 min, 78 h, 208 days; what lies beyond 36 years waits in the
  // last bucket and is filed again from there.
  static constexpr unsigned kLevels = 6;
  static constexpr unsigned kFirstShift = 24;
  static constexpr unsigned kBits = 6;
  static constexpr uint32_t kBuckets = 1u << kBits;
  static constexpr uint32_t kDue = kLevels * kBuckets;
  static constexpr uint32_t kLists = kDue + 1;

  static constexpr unsigned shift(unsigned level) noexcept { return kFirstShift + level * kBits; }

  void unlink(uint32_t node) noexcept {
    nodes_[nodes_[node].prev].next = nodes_[node].next;
    nodes_[nodes_[node].next].prev = nodes_[node].prev;
  }

  void file(Slot slot) noexcept {
    const Nanoseconds deadline = deadlines_[slot];
    uint32_t list = kDue;
    if (deadline > time_) {
      unsigned level = 0;
      while (level < kLevels - 1 &&
             (deadline >> shift(level)) - (time_ >> shift(level)) >= kBuckets) {
        ++level;
      }
      const Nanoseconds last = (time_ >> shift(level)) + kBuckets - 1;
      const Nanoseconds tick = std::min(deadline >> shift(level), last);
      list = level * kBuckets + static_cast<uint32_t>(tick % kBuckets);
    }
    const uint32_t node = kLists + slot;
    nodes_[node] = {nodes_[list].prev, list};
    nodes_[nodes_[list].prev].next = node;
    nodes_[list].prev = node;
  }

  void advance(Nanoseconds now) noexcept {
    if (now <= time_) return;
    for (unsigned level = 0; level < kLevels; ++level) {
      const Nanoseconds from = time_ >> shift(level);
      const Nanoseconds to = now >> shift(level);
      if (from == to) break;
      // A tick of the lowest level is due when it is over, those above as soon as they begin: what
      // is in them must move to a lower level in time.
      const Nanoseconds first = level == 0 ? from : from + 1;
      const Nanoseconds count = std::min<Nanoseconds>(to - from, kBuckets);
      for (Nanoseconds tick = first; tick < first + count; ++tick) {
        make_due(level * kBuckets + static_cast<uint32_t>(tick % kBuckets));
      }
    }
    time_ = now;
  }

  void make_due(uint32_t list) noexcept {
    const Node bucket = nodes_[list];
    if (bucket.next == list) return;
    nodes_[nodes_[kDue].prev].next = bucket.next;
    nodes_[bucket.next].prev = nodes_[kDue].prev;
    nodes_[bucket.prev].next = kDue;
    nodes_[kDue].prev = bucket.prev;
    nodes_[list] = {list, list};
  }

  Nanoseconds time_;
  std::vector<Node> nodes_;
  std::vector<Nanoseconds> deadlines_;
};

}  // namespace blatam
