// A Calendar counts time in requests and divides the past into units, fine near the present and
// coarse far away: an exponential histogram of time (Datar, Gionis, Indyk, Motwani 2002). Entries
// last used in the same unit are of about the same age, so whoever ranks them by age ranks a few
// dozen units instead.
//
// Its owner says when a day, the finest unit, is over. The sixteen last days are kept one by one;
// beyond them there are at most four units of two days, four of four and so on (eight after
// refine()); when there is one more, the two oldest become one of the next length. The oldest unit
// of all is everything before.
//
// A moment may be kept as the low half of the count of requests; ages are then right up to 2^32.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

namespace blatam {

class Calendar {
 public:
  using UnitId = uint8_t;
  static constexpr size_t kMostUnits = 124;

  struct Unit {
    uint64_t start = 0;
    uint64_t days = 1;
    UnitId id = 0;  // its place in whatever its owner keeps beside the calendar
  };

  Calendar() noexcept {
    for (size_t i = 0; i < kMostUnits; ++i) free_[i] = static_cast<UnitId>(kMostUnits - 1 - i);
    open();
  }

  // From now on there are twice as many units of each length.
  void refine() noexcept { units_of_a_length_ = kFineUnits; }

  [[nodiscard]] uint64_t now() const noexcept { return now_; }
  [[nodiscard]] uint32_t moment() const noexcept { return static_cast<uint32_t>(now_); }
  [[nodiscard]] uint32_t age_of(uint32_t moment) const noexcept { return this->moment() - moment; }
  void pass_request() noexcept { ++now_; }

  // Units, the newest first. There is always one.
  [[nodiscard]] size_t size() const noexcept { return size_; }
  [[nodiscard]] const Unit& operator[](size_t index) const noexcept { return units_[index]; }
  [[nodiscard]] const Unit& today() const noexcept { return units_[0]; }
  // From the end of a unit to now.
  [[nodiscard]] uint64_t least_age(size_t index) const noexcept {
    return index == 0 ? 0 : now_ - units_[index - 1].start;
  }
  // From the middle of a unit to now.
  [[nodiscard]] uint64_t middle_age(size_t index) const noexcept {
    const uint64_t length = now_ - least_age(index) - units_[index].start;
    return least_age(index) + length - length / 2;
  }
  // The unit that something of this age belongs to.
  [[nodiscard]] const Unit& unit_of(uint32_t age) const noexcept {
    const uint64_t moment = now_ - std::min<uint64_t>(age, now_);
    const auto* const past =
        std::partition_point(units_.data(), units_.data() + size_ - 1,
                             [&](const Unit& unit) { return unit.start > moment; });
    return *past;
  }
  [[nodiscard]] bool is_of_today(uint32_t age) const noexcept {
    return now_ - std::min<uint64_t>(age, now_) >= units_[0].start;
  }

  // Of two units' ids.
  [[nodiscard]] bool is_older(unsigned a, unsigned b) const noexcept {
    size_t index = 0;
    while (units_[index].id != a && units_[index].id != b) ++index;
    return units_[index].id == b;
  }

  // The day is over. merge(kept, gone) is called for each unit that an older neighbour joins, by
  // their ids.
  template <class Merge>
  void begin_day(Merge&& merge) noexcept {
    open();
    size_t first = 0;
    size_t most = kDays;
    for (uint64_t days = 1;; days *= 2) {
      size_t end = first;
      while (end < size_ && units_[end].days == days) ++end;
      if (days == kLongest) most = 1;
      if (end - first <= most) return;
      Unit& kept = units_[end - 2];
      const Unit gone = units_[end - 1];
      kept.start = gone.start;
      if (days != kLongest) kept.days = 2 * days;
      std::copy(units_.begin() + static_cast<ptrdiff_t>(end),
                units_.begin() + static_cast<ptrdiff_t>(size_),
                units_.begin() + static_cast<ptrdiff_t>(end - 1));
      --size_;
      free_[kMostUnits - 1 - size_] = gone.id;
      merge(kept.id, gone.id);
      if (days == kLongest) return;
      first = end - 2;
      most = units_of_a_length_;
    }
  }

 private:
  static constexpr size_t kDays = 16;
  static constexpr size_t kUnits = 4;
  static constexpr size_t kFineUnits = 8;
  static constexpr uint64_t kLongest = uint64_t{1} << 14;
  // Days, units of each length up to half of the longest, the rest, and one before it merges.
  static_assert(kDays + 13 * kFineUnits + 1 + 1 <= kMostUnits);

  void open() noexcept {
    std::copy_backward(units_.begin(), units_.begin() + static_cast<ptrdiff_t>(size_),
                       units_.begin() + static_cast<ptrdiff_t>(size_ + 1));
    units_[0] = {now_, 1, free_[kMostUnits - 1 - size_]};
    ++size_;
  }

  uint64_t now_ = 0;
  std::array<Unit, kMostUnits> units_{};
  std::array<UnitId, kMostUnits> free_{};  // the first kMostUnits - size_ of them
  size_t size_ = 0;
  size_t units_of_a_length_ = kUnits;
};

}  // namespace blatam
