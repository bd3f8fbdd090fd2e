// A Calendar divides the past into units, fine near the present and coarse far away: an exponential
// histogram of time (Datar, Gionis, Indyk, Motwani 2002). What was last used in the same unit is of
// about the same age, so whoever ranks entries by age ranks a few dozen units instead.
//
// Time is a count of requests that its owner passes in. A day is the finest unit. The sixteen last
// days are kept one by one; beyond them there are at most four units of two days, four of four and
// so on; when there is a fifth, the two oldest become one of the next length.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

namespace blatam {

class Calendar {
 public:
  using UnitId = uint8_t;
  static constexpr size_t kMostUnits = 96;

  struct Unit {
    uint64_t start = 0;
    uint64_t days = 1;
    UnitId id = 0;  // its place in whatever its owner keeps beside the calendar
  };

  Calendar() noexcept {
    for (size_t id = 0; id < kMostUnits; ++id) {
      free_[id] = static_cast<UnitId>(kMostUnits - 1 - id);
    }
    begin(0);
  }

  // The newest first. There is always one.
  [[nodiscard]] size_t size() const noexcept { return size_; }
  [[nodiscard]] const Unit& operator[](size_t index) const noexcept { return units_[index]; }
  [[nodiscard]] const Unit& today() const noexcept { return units_[0]; }

  // Begins a day. merge(kept, gone) is called for each unit whose older neighbour joins it.
  template <class Merge>
  void begin_day(uint64_t now, Merge&& merge) noexcept {
    begin(now);
    size_t from = 0;
    size_t most = kDays;
    for (uint64_t days = 1;; days *= 2) {
      size_t end = from;
      while (end < size_ && units_[end].days == days) ++end;
      // Beyond the last length everything is one unit: the distant past.
      if (days == kLongest) most = 1;
      if (end - from <= most) return;
      const Unit gone = units_[end - 1];
      Unit& kept = units_[end - 2];
      kept.start = gone.start;
      if (days != kLongest) kept.days = 2 * days;
      std::copy(units_.begin() + static_cast<ptrdiff_t>(end),
                units_.begin() + static_cast<ptrdiff_t>(size_),
                units_.begin() + static_cast<ptrdiff_t>(end - 1));
      --size_;
      free_[kMostUnits - 1 - size_] = gone.id;
      merge(kept.id, gone.id);
      if (days == kLongest) return;
      from = end - 2;
      most = kUnits;
    }
  }

  // The index of the unit that holds this moment.
  [[nodiscard]] size_t find(uint64_t moment) const noexcept {
    size_t low = 0;
    size_t high = size_ - 1;
    while (low < high) {
      const size_t middle = (low + high) / 2;
      if (units_[middle].start <= moment) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    return low;
  }

  // From the middle of a unit to now.
  [[nodiscard]] uint64_t age(size_t index, uint64_t now) const noexcept {
    const uint64_t end = index == 0 ? now : units_[index - 1].start;
    return now - (units_[index].start + (end - units_[index].start) / 2);
  }

 private:
  static constexpr size_t kDays = 16;
  static constexpr size_t kUnits = 4;
  static constexpr uint64_t kLongest = 1 << 14;

  // free_ holds the ids that no unit has in its first kMostUnits - size_ places.
  void begin(uint64_t now) noexcept {
    std::copy_backward(units_.begin(), units_.begin() + static_cast<ptrdiff_t>(size_),
                       units_.begin() + static_cast<ptrdiff_t>(size_ + 1));
    units_[0] = {now, 1, free_[kMostUnits - 1 - size_]};
    ++size_;
  }

  std::array<Unit, kMostUnits + 1> units_{};
  std::array<UnitId, kMostUnits> free_{};
  size_t size_ = 0;
};

}  // namespace blatam
