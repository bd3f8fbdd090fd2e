// AgedLists keep slots by what decides their worth: the unit of a Calendar in which they were last
// used, and a class. All slots of one unit and class share a list, the least recently used at its
// end. The lists are ranked; the next victim is the end of the lowest that is not empty. Every
// operation is O(1), but the search for that list looks at each of them once. It is needed when the
// lowest has become empty, or after the ranks have changed.
//
// Several caches over the same slots, each with its own lists and ranks, share one array: a slot's
// links of all lanes lie side by side. 8 bytes a slot and lane; no allocation after grow().
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

inline constexpr size_t kClasses = 8;
using ListId = uint32_t;
inline ListId list_of(Calendar::UnitId unit, size_t list_class) noexcept {
  return static_cast<ListId>(unit * kClasses + list_class);
}

// A rank for each list. The lowest leaves first; of equal ones the older unit, then the lower
// class.
using Ranks = std::array<double, Calendar::kMostUnits * kClasses>;

template <unsigned kLanes>
class AgedLists {
 public:
  // The calendar must outlive it.
  explicit AgedLists(const Calendar& calendar) : calendar_(calendar), links_(kLists) {
    for (ListId list = 0; list < kLists; ++list) links_[list].fill({list, list});
    lowest_.fill(kUnknown);
  }

  void grow(size_t slots) {
    if (slots + kLists > links_.size()) links_.resize(slots + kLists);
  }

  // The ranks, to be changed.
  [[nodiscard]] Ranks& ranks(unsigned lane) noexcept {
    lowest_[lane] = kUnknown;
    return ranks_[lane];
  }

  // Requires slot not inside this lane; and, of its list, the last or the first to have been used.
  void push_newest(unsigned lane, ListId list, Slot slot) noexcept {
    const uint32_t node = kLists + slot;
    Link& head = links_[list][lane];
    links_[node][lane] = {list, head.older};
    links_[head.older][lane].newer = node;
    head.older = node;
    occupy(lane, list);
  }
  void push_oldest(unsigned lane, ListId list, Slot slot) noexcept {
    const uint32_t node = kLists + slot;
    Link& head = links_[list][lane];
    links_[node][lane] = {head.newer, list};
    links_[head.newer][lane].older = node;
    head.newer = node;
    occupy(lane, list);
  }
  // Requires slot inside.
  void unlink(unsigned lane, Slot slot) noexcept {
    const Link link = links_[kLists + slot][lane];
    links_[link.newer][lane].older = link.older;
    links_[link.older][lane].newer = link.newer;
    if (link.newer == link.older) {  // both are the list
      occupied_[lane][link.newer / kClasses] &= static_cast<uint8_t>(~bit_of(link.newer));
    }
  }

  // The lists of an older unit join those of the same class, and give them their ranks.
  void merge(unsigned lane, Calendar::UnitId kept, Calendar::UnitId gone) noexcept {
    for (size_t list_class = 0; list_class < kClasses; ++list_class) {
      const ListId to = list_of(kept, list_class);
      const ListId from = list_of(gone, list_class);
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
    lowest_[lane] = kUnknown;
  }

  // The next victim, or kNoSlot if there is none.
  [[nodiscard]] Slot coldest(unsigned lane) noexcept {
    ListId& lowest = lowest_[lane];
    if (lowest == kUnknown || !occupied(lane, lowest)) lowest = search(lane);
    return lowest == kUnknown ? kNoSlot : links_[lowest][lane].newer - kLists;
  }
  // The same among those not pinned. Where whole lists are pinned it sorts all lists.
  [[nodiscard]] Slot coldest(unsigned lane, const Pins& pins) noexcept {
    const Slot slot = coldest(lane);
    if (slot == kNoSlot || !pins.holds(slot)) return slot;
    const Slot free = coldest_of(lane, lowest_[lane], pins);
    if (free != kNoSlot) return free;
    struct Ranked {
      double rank;
      uint32_t place;  // among equals
      ListId list;
    };
    std::array<Ranked, kLists> order;
    uint32_t lists = 0;
    for (size_t index = calendar_.size(); index-- > 0;) {
      for (size_t list_class = 0; list_class < kClasses; ++list_class) {
        const ListId list = list_of(calendar_[index].id, list_class);
        if (!occupied(lane, list)) continue;
        order[lists] = {ranks_[lane][list], lists, list};
        ++lists;
      }
    }
    std::sort(order.begin(), order.begin() + lists, [](const Ranked& a, const Ranked& b) {
      return a.rank != b.rank ? a.rank < b.rank : a.place < b.place;
    });
    for (uint32_t i = 0; i < lists; ++i) {
      const Slot unpinned = coldest_of(lane, order[i].list, pins);
      if (unpinned != kNoSlot) return unpinned;
    }
    return kNoSlot;
  }

  [[nodiscard]] size_t memory_bytes() const noexcept {
    return links_.capacity() * sizeof(links_[0]);
  }

 private:
  // Nodes: first one for each list, its end and its beginning, then one for each slot. A list's
  // node is newer than its newest slot and older than its oldest.
  static constexpr uint32_t kLists = Calendar::kMostUnits * kClasses;
  static constexpr ListId kUnknown = 0xFFFFFFFF;
  struct Link {
    uint32_t newer = 0;
    uint32_t older = 0;
  };

  static unsigned bit_of(ListId list) noexcept { return 1u << list % kClasses; }
  [[nodiscard]] bool occupied(unsigned lane, ListId list) const noexcept {
    return (occupied_[lane][list / kClasses] & bit_of(list)) != 0;
  }
  void occupy(unsigned lane, ListId list) noexcept {
    occupied_[lane][list / kClasses] |= static_cast<uint8_t>(bit_of(list));
    ListId& lowest = lowest_[lane];
    if (lowest == kUnknown || list == lowest) return;
    const Ranks& ranks = ranks_[lane];
    if (ranks[list] < ranks[lowest]) {
      lowest = list;
    } else if (ranks[list] == ranks[lowest]) {
      lowest = kUnknown;
    }
  }

  // The first of equals in the order of units and classes.
  [[nodiscard]] ListId search(unsigned lane) const noexcept {
    const Ranks& ranks = ranks_[lane];
    ListId lowest = kUnknown;
    for (size_t index = calendar_.size(); index-- > 0;) {
      const Calendar::UnitId unit = calendar_[index].id;
      for (unsigned classes = occupied_[lane][unit]; classes != 0; classes &= classes - 1) {
        const ListId list = list_of(unit, static_cast<size_t>(std::countr_zero(classes)));
        if (lowest == kUnknown || ranks[list] < ranks[lowest]) lowest = list;
      }
    }
    return lowest;
  }

  [[nodiscard]] Slot coldest_of(unsigned lane, ListId list, const Pins& pins) const noexcept {
    uint32_t node = links_[list][lane].newer;
    while (node >= kLists && pins.holds(node - kLists)) node = links_[node][lane].newer;
    return node >= kLists ? node - kLists : kNoSlot;
  }

  const Calendar& calendar_;
  std::vector<std::array<Link, kLanes>> links_;
  std::array<Ranks, kLanes> ranks_{};
  // A bit for each class, set where its list is not empty.
  std::array<std::array<uint8_t, Calendar::kMostUnits>, kLanes> occupied_{};
  std::array<ListId, kLanes> lowest_{};
};

}  // namespace blatam
