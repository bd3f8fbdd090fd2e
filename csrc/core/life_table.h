// A LifeTable learns when what was used is used again: for each class of entries, by number of
// uses, how many of those that reached an age were used at it. From that follows an entry's worth:
// the most hits for each unit of time that keeping it on, for whatever time suits it best, can be
// expected to bring. The entry worth least leaves first.
//
// It is the life table of actuaries, with deaths (forgotten before another use) and the living as
// censored cases, and a close relative of LHD (Beckmann, Chen, Cidon 2018). A class with few cases
// leans on the hazard of all classes together. Untrained, the worth falls with age: LRU.
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
  template <class T>
  using Table = std::array<std::array<T, kBins>, kGroups>;

  static size_t group_of(uint8_t uses, bool last) noexcept {
    const auto doublings = static_cast<size_t>(std::bit_width(static_cast<unsigned>(uses)) - 1);
    return std::min(doublings, kUseGroups - 1) + (last ? kUseGroups : 0);
  }
  static size_t bin_of(uint32_t age) noexcept {
    if (age < 8) return age;
    const int shift = std::bit_width(age) - 3;
    return static_cast<size_t>(4 * shift) + (age >> shift);
  }
  // The width of a bin.
  static double width_of(size_t bin) noexcept {
    return bin < 8 ? 1.0 : static_cast<double>(uint64_t{1} << (bin / 4 - 1));
  }

  LifeTable() noexcept;

  void used(size_t group, uint32_t age) noexcept { hits_[group][bin_of(age)] += 1; }
  void forgotten(size_t group, uint32_t age) noexcept { forgotten_[group][bin_of(age)] += 1; }
  // Learns from what happened, and from the ages of what is remembered now.
  void learn(const Table<double>& living) noexcept;
  // Old cases count half as much.
  void fade() noexcept;

  [[nodiscard]] double worth(size_t group, uint64_t age) const noexcept {
    return worth_[group][bin_of(age < UINT32_MAX ? static_cast<uint32_t>(age) : UINT32_MAX)];
  }

  // The cases, for saving; and others in their place, from which it learns anew.
  [[nodiscard]] const Table<double>& hits() const noexcept { return hits_; }
  [[nodiscard]] const Table<double>& forgotten() const noexcept { return forgotten_; }
  void restore(const Table<double>& hits, const Table<double>& forgotten) noexcept {
    hits_ = hits;
    forgotten_ = forgotten;
  }

 private:
  Table<double> hits_{};
  Table<double> forgotten_{};
  Table<double> worth_{};
};

}  // namespace blatam
