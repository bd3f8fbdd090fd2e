// A LifeTable learns when what was used is used again: for each class of entries, by number of
// uses, how many of those that reached an age were used at it. From that follows an entry's worth:
// the most hits for each unit of time that keeping it on, for whatever time suits it best, can be
// expected to bring. The entry worth least leaves first.
//
// It is the life table of actuaries, with deaths (forgotten before another use) and the living as
// censored cases, and a close relative of LHD (Beckmann, Chen, Cidon 2018). A class with few cases
// leans on the hazard of all classes together. Untrained, the worth falls with age: LRU; and so
// does that of entries of which nothing says that they will ever be used again, at next to nothing,
// so that whoever weighs them by price still can.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace blatam {

class LifeTable {
 public:
  // Uses: 1, 2-3, 4-7, more, since finer classes starve; and each once more for the last blocks of
  // prompts, whose continuation is what the next turn of a conversation brings.
  static constexpr size_t kGroups = 8;
  static constexpr size_t kUseGroups = kGroups / 2;
  // Ages: four bins to a doubling, exact below 8.
  static constexpr size_t kBins = 124;
  using Table = std::array<std::array<double, kBins>, kGroups>;
  // How many were used again, or forgotten, in each group at each age.
  struct Cases {
    Table used{};
    Table forgotten{};
  };

  static size_t group_of(uint8_t uses, bool last) noexcept {
    const auto doublings = static_cast<size_t>(std::bit_width(static_cast<unsigned>(uses)) - 1);
    return std::min(doublings, kUseGroups - 1) + (last ? kUseGroups : 0);
  }
  static size_t bin_of(uint64_t age) noexcept {
    if (age < 8) return age;
    const auto capped = static_cast<uint32_t>(std::min<uint64_t>(age, UINT32_MAX));
    const int shift = std::bit_width(capped) - 3;
    return static_cast<size_t>(4 * shift) + (capped >> shift);
  }

  LifeTable() noexcept;

  void used(size_t group, uint32_t age) noexcept { cases_.used[group][bin_of(age)] += 1; }
  void forgotten(size_t group, uint32_t age) noexcept { cases_.forgotten[group][bin_of(age)] += 1; }
  // Learns from what happened, and from the ages of what is remembered now.
  void learn(const Table& living) noexcept;
  // Old cases count half as much.
  void fade() noexcept;

  [[nodiscard]] double worth(size_t group, uint64_t age) const noexcept {
    return worth_in(group, bin_of(age));
  }
  [[nodiscard]] double worth_in(size_t group, size_t bin) const noexcept {
    return worth_[group][bin];
  }

  [[nodiscard]] const Cases& cases() const noexcept { return cases_; }
  // From which the next learn() learns.
  void restore(const Cases& cases) noexcept { cases_ = cases; }

 private:
  Cases cases_;
  Table worth_{};
};

}  // namespace blatam
