// An Order ranks AgedLists. Policies that keep their entries by age and by how often they were used
// differ in their order only:
//
//   lru      the least recently used first
//   lfu      the least often used first, the count surviving eviction; then the least recent
//   loop     the least often used first; then the most recent, but for the last two days, so that
//            what fits of a loop stays
//   density  the least worth first, by a LifeTable; where prices differ, times the price
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/aged_lists.h"
#include "core/calendar.h"
#include "core/life_table.h"

namespace blatam {

enum class Order : uint8_t { kLru, kLfu, kLoop, kDensity };
inline constexpr size_t kOrders = 4;
inline constexpr std::string_view kOrderNames[kOrders] = {"lru", "lfu", "loop", "density"};

// What the classes of the lists stand for.
enum class Classes : uint8_t {
  kUses,    // powers of two of the number of uses: class_of()
  kGroups,  // the groups of the life table
};

// Uses are counted up to kMostUses.
inline constexpr uint8_t kMostUses = 255;
// Requires uses > 0.
inline size_t class_of(uint8_t uses) noexcept {
  return static_cast<size_t>(std::bit_width(static_cast<unsigned>(uses)) - 1);
}

// Ranks all lists of all units.
void rank_all(Ranks& ranks, Order order, const LifeTable& lives, const Calendar& calendar,
              Classes classes) noexcept;
// A day has begun: ranks the lists of the units that are new in their place, for which their ages
// decide that do not matter to the order otherwise.
void rank_day(Ranks& ranks, Order order, const LifeTable& lives, const Calendar& calendar,
              Classes classes) noexcept;

}  // namespace blatam
