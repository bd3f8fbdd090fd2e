// AgedLists keep slots by what decides their worth: the unit of a Calendar in which they were last
// used, and a class. All slots of one unit and class share a list, the least recently used at its
// end; the lists are ranked, and the next victim is the end of the least list that is not empty.
// Every operation is O(1) but the search for that list, which looks at each list's rank once and is
// needed only when the last answer has become empty or the ranks have changed.
//
// Several caches over the same slots, each with its own lists and ranks, share one array: a slot's
// links of all lanes lie side by side.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/calendar.h"
#include "core/policy.h"

namespace blatam {

// A slot's class: how often it was used, in powers of two.
inline constexpr size_t kUseClasses = 8;
inline constexpr uint8_t kMostUses = 255;
inline size_t class_of(uint8_t uses) noexcept {
  return static_cast<size_t>(std::bit_width(static_cast<unsigned>(uses)) - 1);
}

// A rank for each list, by unit and class.
using AgedRanks = std::array<double, Calendar::kMostUnits * kUseClasses>;

template <unsigned kLanes>
class AgedLists {
 public:
  using ListId = uint32_t;
  static ListId list_of(Calendar::UnitId unit, size_t use_class) noexcept {
    return static_cast<ListId>(unit * kUseClasses + use_class);
  }

  AgedLists() : links_(kLists) {
    for (ListId list = 0; list < kLists; ++list) links_[list].fill({list, list});
  }

  void grow(size_t slots) {
    if (slots + kLists > links_.size()) links_.resize(slots + kLists);
  }

  // The ranks, to be changed; the least leaves first.
  [[nodiscard]] AgedRanks& ranks(unsigned lane) noexcept {
    least_[lane] = kUnknown;
    return ranks_[lane];
  }

  void push_newest(unsigned lane, ListId list, Slot slot, const Calendar& calendar) noexcept {
    const uint32_t node = kLists + slot;
    Link& head = links_[list][lane];
    links_[node][lane] = {list, head.older};
    links_[head.older][lane].newer = node;
    head.older = node;
    occupied_[lane][list / kUseClasses] |= static_cast<uint8_t>(1 << list % kUseClasses);
    if (least_[lane] != kUnknown && before(lane, list, least_[lane], calendar)) least_[lane] = list;
  }
  void push_oldest(unsigned lane, ListId list, Slot slot, const Calendar& calendar) noexcept {
    const uint32_t node = kLists + slot;
    Link& head = links_[list][lane];
    links_[node][lane] = {head.newer, list};
    links_[head.newer][lane].older = node;
    head.newer = node;
    occupied_[lane][list / kUseClasses] |= static_cast<uint8_t>(1 << list % kUseClasses);
    if (least_[lane] != kUnknown && before(lane, list, least_[lane], calendar)) least_[lane] = list;
  }
  void unlink(unsigned lane, Slot slot) noexcept {
    const Link link = links_[kLists + slot][lane];
    links_[link.newer][lane].older = link.older;
    links_[link.older][lane].newer = link.newer;
    if (link.newer == link.older) vacate(lane, link.newer);
  }

  // The older lists join those of the same class, and give them their ranks.
  void merge(unsigned lane, Calendar::UnitId kept, Calendar::UnitId gone) noexcept {
    for (size_t use_class = 0; use_class < kUseClasses; ++use_class) {
      const ListId to = list_of(kept, use_class);
      const ListId from = list_of(gone, use_class);
      ranks_[lane][to] = ranks_[lane][from];
      Link& source = links_[from][lane];
      if (source.older == from) continue;
      Link& head = links_[to][lane];
      links_[head.newer][lane].older = source.older;
      links_[source.older][lane].newer = head.newer;
      links_[source.newer][lane].older = to;
      head.newer = source.newer;
      source = {from, from};
    }
    occupied_[lane][kept] |= occupied_[lane][gone];
    occupied_[lane][gone] = 0;
    least_[lane] = kUnknown;
  }

  // The next victim, or kNoSlot if there is none.
  [[nodiscard]] Slot coldest(unsigned lane, const Calendar& calendar) noexcept {
    ListId& least = least_[lane];
    if (least == kUnknown || !occupied(lane, least)) least = search(lane, calendar);
    return least == kUnknown ? kNoSlot : links_[least][lane].newer - kLists;
  }
  // The same among those not pinned.
  [[nodiscard]] Slot coldest_unpinned(unsigned lane, const Calendar& calendar, const Pins& pins) {
    const Slot slot = coldest(lane, calendar);
    if (slot == kNoSlot || !pins.holds(slot)) return slot;
    std::array<ListId, kLists> order;
    size_t lists = 0;
    for (size_t index = 0; index < calendar.size(); ++index) {
      for (size_t use_class = 0; use_class < kUseClasses; ++use_class) {
        const ListId list = list_of(calendar[index].id, use_class);
        if (occupied(lane, list)) order[lists++] = list;
      }
    }
    std::sort(order.begin(), order.begin() + static_cast<ptrdiff_t>(lists),
              [&](ListId a, ListId b) { return before(lane, a, b, calendar); });
    for (size_t i = 0; i < lists; ++i) {
      for (uint32_t node = links_[order[i]][lane].newer; node >= kLists;
           node = links_[node][lane].newer) {
        if (!pins.holds(node - kLists)) return node - kLists;
      }
    }
    return kNoSlot;
  }

  void prefetch(Slot slot) const noexcept { __builtin_prefetch(&links_[kLists + slot]); }
  [[nodiscard]] size_t memory_bytes() const noexcept {
    return links_.capacity() * sizeof(links_[0]) + sizeof ranks_;
  }

 private:
  // Nodes: first one for each list, its own end and beginning, then one for each slot. A list's
  // node is newer than its newest slot and older than its oldest.
  static constexpr uint32_t kLists = Calendar::kMostUnits * kUseClasses;
  static constexpr ListId kUnknown = 0xFFFFFFFF;
  struct Link {
    uint32_t newer = 0;
    uint32_t older = 0;
  };

  [[nodiscard]] bool occupied(unsigned lane, ListId list) const noexcept {
    return occupied_[lane][list / kUseClasses] >> list % kUseClasses & 1;
  }
  void vacate(unsigned lane, ListId list) noexcept {
    occupied_[lane][list / kUseClasses] &= static_cast<uint8_t>(~(1 << list % kUseClasses));
  }

  // Which leaves first: the lower rank, then the older unit, then the lower class.
  [[nodiscard]] bool before(unsigned lane, ListId a, ListId b,
                            const Calendar& calendar) const noexcept {
    const AgedRanks& ranks = ranks_[lane];
    if (ranks[a] != ranks[b]) return ranks[a] < ranks[b];
    const size_t unit_a = position(a, calendar);
    const size_t unit_b = position(b, calendar);
    return unit_a != unit_b ? unit_a > unit_b : a < b;
  }
  static size_t position(ListId list, const Calendar& calendar) noexcept {
    size_t index = 0;
    while (calendar[index].id != list / kUseClasses) ++index;
    return index;
  }

  [[nodiscard]] ListId search(unsigned lane, const Calendar& calendar) const noexcept {
    const AgedRanks& ranks = ranks_[lane];
    ListId least = kUnknown;
    for (size_t index = calendar.size(); index-- > 0;) {
      const Calendar::UnitId unit = calendar[index].id;
      for (unsigned classes = occupied_[lane][unit]; classes != 0; classes &= classes - 1) {
        const ListId list = list_of(unit, static_cast<size_t>(std::countr_zero(classes)));
        if (least == kUnknown || ranks[list] < ranks[least]) least = list;
      }
    }
    return least;
  }

  std::vector<std::array<Link, kLanes>> links_;
  std::array<AgedRanks, kLanes> ranks_{};
  // A bit for each class, set where its list is not empty.
  std::array<std::array<uint8_t, Calendar::kMostUnits>, kLanes> occupied_{};
  std::array<ListId, kLanes> least_ = [] {
    std::array<ListId, kLanes> least;
    least.fill(kUnknown);
    return least;
  }();
};

}  // namespace blatam
