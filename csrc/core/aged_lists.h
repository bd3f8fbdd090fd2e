// AgedLists keep slots by what decides their worth: the unit of a Calendar in which they were last
// used, and a class. All slots of one unit and class share a list, the least recently used at its
// end. The lists are ranked; the next victim is the end of the lowest that is not empty. Every
// operation is O(1), but the search for that list looks at each of them once. It is needed when the
// lowest has become empty, or after the ranks have changed.
//
// Entries of different prices can lie on shelves of their own, each with a list for each unit and
// class. Then a rank counts as often as the shelf's price says, as long as prices are weighed.
//
// Several caches over the same slots, each with its own lists and ranks, share one array: a slot's
// links of all lanes lie side by side. 8 bytes a slot and lane; no allocation after grow().
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "core/calendar.h"
#include "core/policy.h"

namespace blatam {

inline constexpr size_t kClasses = 8;
using ListId = uint32_t;
// A power of two, which is cheap to divide by.
inline constexpr auto kListsOfAShelf =
    static_cast<ListId>(std::bit_ceil(Calendar::kMostUnits * kClasses));
inline ListId list_of(Calendar::UnitId unit, size_t list_class, unsigned shelf = 0) noexcept {
  return static_cast<ListId>(shelf * kListsOfAShelf + unit * kClasses + list_class);
}

// A rank for each list of a shelf. The lowest leaves first, times the price where prices are
// weighed; of equal ones the lower without it, the older unit, the lower class, the lower shelf.
using Ranks = std::array<double, kListsOfAShelf>;

// What a slot's owner knows of it and reads along with its links. Must not need to be constructed.
struct Nothing {};

template <unsigned kLanes, unsigned kShelves = 1, class Beside = Nothing>
class AgedLists {
 public:
  // The calendar must outlive it.
  explicit AgedLists(const Calendar& calendar)
      : calendar_(calendar), rows_(std::make_unique_for_overwrite<Row[]>(kLists)) {
    use_shelf(0);
  }

  void grow(size_t slots) {
    if (slots <= slots_) return;
    // What shelves need that are not used stays untouched: address space, but no memory.
    auto rows = std::make_unique_for_overwrite<Row[]>(kLists + slots);
    std::copy_n(rows_.get(), used_ * kListsOfAShelf, rows.get());
    std::copy_n(rows_.get() + kLists, slots_, rows.get() + kLists);
    rows_ = std::move(rows);
    slots_ = slots;
  }

  [[nodiscard]] Beside& beside(Slot slot) noexcept { return rows_[kLists + slot].beside; }
  [[nodiscard]] const Beside& beside(Slot slot) const noexcept {
    return rows_[kLists + slot].beside;
  }

  // The ranks, to be changed.
  [[nodiscard]] Ranks& ranks(unsigned lane) noexcept {
    for (Shelf& shelf : shelves_[lane]) shelf.lowest = kUnknown;
    return ranks_[lane];
  }
  [[nodiscard]] const Ranks& ranks_of(unsigned lane) const noexcept { return ranks_[lane]; }
  // Shelves are used from the first one on, and each has a price before it is.
  void set_price(unsigned shelf, double price) noexcept {
    prices_[shelf] = price;
    if (shelf == used_) use_shelf(shelf);
  }
  void weigh_prices(unsigned lane, bool weigh) noexcept { weigh_[lane] = weigh; }
  [[nodiscard]] bool is_empty(unsigned lane, unsigned shelf) const noexcept {
    const auto& occupied = shelves_[lane][shelf].occupied;
    return std::all_of(occupied.begin(), occupied.end(), [](uint8_t bits) { return bits == 0; });
  }

  // Requires slot not inside this lane; and, of its list, the last or the first to have been used.
  void push_newest(unsigned lane, ListId list, Slot slot) noexcept {
    const uint32_t node = kLists + slot;
    Link& head = rows_[list].links[lane];
    rows_[node].links[lane] = {list, head.older};
    rows_[head.older].links[lane].newer = node;
    head.older = node;
    occupy(lane, list);
  }
  void push_oldest(unsigned lane, ListId list, Slot slot) noexcept {
    const uint32_t node = kLists + slot;
    Link& head = rows_[list].links[lane];
    rows_[node].links[lane] = {head.newer, list};
    rows_[head.newer].links[lane].older = node;
    head.newer = node;
    occupy(lane, list);
  }
  // Requires slot inside.
  void unlink(unsigned lane, Slot slot) noexcept {
    const Link link = rows_[kLists + slot].links[lane];
    rows_[link.newer].links[lane].older = link.older;
    rows_[link.older].links[lane].newer = link.newer;
    if (link.newer == link.older) {  // both are the list
      bits_of(lane, link.newer) &= static_cast<uint8_t>(~bit_of(link.newer));
    }
  }

  // The lists of an older unit join those of the same class, and give them their ranks.
  void merge(unsigned lane, Calendar::UnitId kept, Calendar::UnitId gone) noexcept {
    for (size_t list_class = 0; list_class < kClasses; ++list_class) {
      ranks_[lane][list_of(kept, list_class)] = ranks_[lane][list_of(gone, list_class)];
    }
    for (unsigned shelf = 0; shelf < used(); ++shelf) {
      for (size_t list_class = 0; list_class < kClasses; ++list_class) {
        const ListId to = list_of(kept, list_class, shelf);
        const ListId from = list_of(gone, list_class, shelf);
        Link& source = rows_[from].links[lane];
        if (source.older == from) continue;
        Link& head = rows_[to].links[lane];
        rows_[head.newer].links[lane].older = source.older;
        rows_[source.older].links[lane].newer = head.newer;
        rows_[source.newer].links[lane].older = to;
        head.newer = source.newer;
        source = {from, from};
      }
      Shelf& each = shelves_[lane][shelf];
      each.occupied[kept] |= each.occupied[gone];
      each.occupied[gone] = 0;
      each.lowest = kUnknown;
    }
  }

  // The next victim, or kNoSlot if there is none.
  [[nodiscard]] Slot coldest(unsigned lane) noexcept {
    for (unsigned shelf = 0; shelf < used(); ++shelf) {
      ListId& lowest = shelves_[lane][shelf].lowest;
      if (lowest == kNone) continue;
      if (lowest == kUnknown || !occupied(lane, lowest)) {
        lowest = search(lane, shelf, [](ListId) { return true; });
      }
    }
    const ListId list = lowest_of_all(lane);
    return list == kNone ? kNoSlot : rows_[list].links[lane].newer - kLists;
  }
  // The same among those not pinned. Where whole lists are pinned it looks at all lists.
  [[nodiscard]] Slot coldest(unsigned lane, const Pins& pins) noexcept {
    const Slot slot = coldest(lane);
    if (slot == kNoSlot || !pins.holds(slot)) return slot;
    const Slot beside = coldest_of(lane, lowest_of_all(lane), pins);
    if (beside != kNoSlot) return beside;
    ListId lowest = kNone;
    for (unsigned shelf = 0; shelf < used(); ++shelf) {
      const ListId list =
          search(lane, shelf, [&](ListId each) { return coldest_of(lane, each, pins) != kNoSlot; });
      if (list != kNone && (lowest == kNone || before(lane, list, lowest))) lowest = list;
    }
    return lowest == kNone ? kNoSlot : coldest_of(lane, lowest, pins);
  }

  // What coldest() may return next and after that, without a search.
  [[nodiscard]] Policy::Guess guess(unsigned lane) const noexcept {
    const ListId lowest = lowest_of_all(lane);
    if (lowest == kNone) return {};
    const uint32_t next = rows_[lowest].links[lane].newer;
    if (next < kLists) return {};
    const uint32_t after = rows_[next].links[lane].newer;
    return {next - kLists, after < kLists ? kNoSlot : after - kLists};
  }
  // Fetch a slot's links from memory, or what they lead to.
  void prefetch(Slot slot) const noexcept { __builtin_prefetch(&rows_[kLists + slot], 1); }
  void prefetch_beside(unsigned lane, Slot slot) const noexcept {
    const Link link = rows_[kLists + slot].links[lane];
    __builtin_prefetch(&rows_[link.newer].links[lane], 1);
    __builtin_prefetch(&rows_[link.older].links[lane], 1);
  }

  [[nodiscard]] size_t memory_bytes() const noexcept {
    return (used_ * kListsOfAShelf + slots_) * sizeof(Row);
  }

 private:
  // Nodes: first one for each list, its end and its beginning, then one for each slot. A list's
  // node is newer than its newest slot and older than its oldest.
  static constexpr uint32_t kLists = kShelves * kListsOfAShelf;
  // Of no list: to be searched for, or the shelf is empty.
  static constexpr ListId kUnknown = 0xFFFFFFFF;
  static constexpr ListId kNone = kUnknown - 1;
  struct Link {
    uint32_t newer;
    uint32_t older;
  };
  struct Row {
    [[no_unique_address]] Beside beside;
    std::array<Link, kLanes> links;
  };
  struct Shelf {
    // A bit for each class, set where its list is not empty.
    std::array<uint8_t, Calendar::kMostUnits> occupied{};
    ListId lowest = kUnknown;
  };

  static unsigned shelf_of(ListId list) noexcept {
    return kShelves == 1 ? 0 : list / kListsOfAShelf;
  }
  static unsigned unit_of(ListId list) noexcept { return list % kListsOfAShelf / kClasses; }
  static unsigned bit_of(ListId list) noexcept { return 1u << list % kClasses; }
  [[nodiscard]] uint8_t& bits_of(unsigned lane, ListId list) noexcept {
    return shelves_[lane][shelf_of(list)].occupied[unit_of(list)];
  }
  [[nodiscard]] bool occupied(unsigned lane, ListId list) const noexcept {
    return (shelves_[lane][shelf_of(list)].occupied[unit_of(list)] & bit_of(list)) != 0;
  }
  void occupy(unsigned lane, ListId list) noexcept {
    bits_of(lane, list) |= static_cast<uint8_t>(bit_of(list));
    ListId& lowest = shelves_[lane][shelf_of(list)].lowest;
    if (lowest == kUnknown || list == lowest) return;
    if (lowest == kNone) {
      lowest = list;
      return;
    }
    const double gap = rank(lane, list) - rank(lane, lowest);
    if (gap < 0) {
      lowest = list;
    } else if (gap == 0) {
      lowest = kUnknown;
    }
  }

  void use_shelf(unsigned shelf) noexcept {
    for (ListId list = shelf * kListsOfAShelf; list < (shelf + 1) * kListsOfAShelf; ++list) {
      rows_[list].links.fill({list, list});
    }
    used_ = shelf + 1;
  }
  [[nodiscard]] unsigned used() const noexcept { return kShelves == 1 ? 1 : used_; }
  // Within its shelf.
  [[nodiscard]] double rank(unsigned lane, ListId list) const noexcept {
    return ranks_[lane][list % kListsOfAShelf];
  }
  // Whether the lowest list of a shelf leaves before that of another.
  [[nodiscard]] bool before(unsigned lane, ListId a, ListId b) const noexcept {
    if (weigh_[lane]) {
      const double gap =
          rank(lane, a) * prices_[shelf_of(a)] - rank(lane, b) * prices_[shelf_of(b)];
      if (gap != 0) return gap < 0;
    }
    if (rank(lane, a) != rank(lane, b)) return rank(lane, a) < rank(lane, b);
    if (unit_of(a) != unit_of(b)) return calendar_.is_older(unit_of(a), unit_of(b));
    return a % kClasses != b % kClasses ? a % kClasses < b % kClasses : a < b;
  }

  // The lowest of what is known to be the lowest of each shelf.
  [[nodiscard]] ListId lowest_of_all(unsigned lane) const noexcept {
    ListId lowest = kNone;
    for (unsigned shelf = 0; shelf < used(); ++shelf) {
      const ListId list = shelves_[lane][shelf].lowest;
      if (list >= kNone) continue;
      if (lowest == kNone || before(lane, list, lowest)) lowest = list;
    }
    return lowest;
  }
  // Of the lists of a shelf for which accept(list). The first of equals in the order of units and
  // classes.
  template <class Accept>
  [[nodiscard]] ListId search(unsigned lane, unsigned shelf, Accept&& accept) const noexcept {
    ListId lowest = kNone;
    for (size_t index = calendar_.size(); index-- > 0;) {
      const Calendar::UnitId unit = calendar_[index].id;
      for (unsigned classes = shelves_[lane][shelf].occupied[unit]; classes != 0;
           classes &= classes - 1) {
        const ListId list = list_of(unit, static_cast<size_t>(std::countr_zero(classes)), shelf);
        if (lowest != kNone && rank(lane, list) >= rank(lane, lowest)) continue;
        if (accept(list)) lowest = list;
      }
    }
    return lowest;
  }

  [[nodiscard]] Slot coldest_of(unsigned lane, ListId list, const Pins& pins) const noexcept {
    uint32_t node = rows_[list].links[lane].newer;
    while (node >= kLists && pins.holds(node - kLists)) node = rows_[node].links[lane].newer;
    return node >= kLists ? node - kLists : kNoSlot;
  }

  const Calendar& calendar_;
  std::unique_ptr<Row[]> rows_;
  size_t slots_ = 0;
  std::array<Ranks, kLanes> ranks_{};
  std::array<std::array<Shelf, kShelves>, kLanes> shelves_{};
  std::array<double, kShelves> prices_{};
  unsigned used_ = 0;
  std::array<bool, kLanes> weigh_{};
};

}  // namespace blatam
