#include "core/order.h"

#include <algorithm>

namespace blatam {
namespace {

// Units that `loop` spares.
constexpr size_t kSpared = 2;
// More than any moment.
constexpr double kAfterAll = 1e17;

// A unit is as old as its youngest: in a loop the oldest of a unit leave it by being used, and what
// remains is about to be used as well. Blocks come and go by the prompt, a few prompts a unit, and
// are best taken together.
void rank_by_worth(double* rank, const LifeTable& lives, const Calendar& calendar, Classes classes,
                   size_t index) noexcept {
  const bool groups = classes == Classes::kGroups;
  const size_t bin =
      LifeTable::bin_of(groups ? calendar.middle_age(index) : calendar.least_age(index));
  for (size_t list_class = 0; list_class < kClasses; ++list_class) {
    rank[list_class] =
        lives.worth_in(groups ? list_class : std::min(list_class, LifeTable::kUseGroups - 1), bin);
  }
}

void rank_unit(Ranks& ranks, Order order, const LifeTable& lives, const Calendar& calendar,
               Classes classes, size_t index) noexcept {
  const auto start = static_cast<double>(calendar[index].start);
  double* const rank = ranks.data() + list_of(calendar[index].id, 0);
  if (order == Order::kDensity) return rank_by_worth(rank, lives, calendar, classes, index);
  for (size_t list_class = 0; list_class < kClasses; ++list_class) {
    const double often = kAfterAll * static_cast<double>(list_class);
    switch (order) {
      case Order::kLru:
        rank[list_class] = start;
        break;
      case Order::kLfu:
        rank[list_class] = often + start;
        break;
      case Order::kLoop:
        rank[list_class] = index < kSpared ? kAfterAll * kClasses + start : often - start;
        break;
      case Order::kDensity:
        break;
    }
  }
}

}  // namespace

void rank_all(Ranks& ranks, Order order, const LifeTable& lives, const Calendar& calendar,
              Classes classes) noexcept {
  for (size_t index = 0; index < calendar.size(); ++index) {
    rank_unit(ranks, order, lives, calendar, classes, index);
  }
}

void rank_day(Ranks& ranks, Order order, const LifeTable& lives, const Calendar& calendar,
              Classes classes) noexcept {
  rank_unit(ranks, order, lives, calendar, classes, 0);
  if (order == Order::kLoop && calendar.size() > kSpared) {
    rank_unit(ranks, order, lives, calendar, classes, kSpared);
  }
}

}  // namespace blatam
