// A set of numbers below a bound that finds its largest, and the next one below any, in a few
// steps: one bit for each number, and above every 64 words a word that says which of them are not
// zero, up to a single word. Two bits a number, no allocation after the constructor.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace blatam {

class BitTree {
 public:
  static constexpr size_t kNone = SIZE_MAX;

  explicit BitTree(size_t bound) {
    do {
      bound = (bound + 63) / 64;
      levels_.emplace_back(bound);
    } while (bound > 1);
  }

  // All below require number < bound.
  void insert(size_t number) noexcept {
    for (auto& level : levels_) {
      uint64_t& word = level[number / 64];
      const bool known = word != 0;
      word |= bit(number);
      if (known) return;
      number /= 64;
    }
  }
  // Returns true if it was inside.
  bool erase(size_t number) noexcept {
    if ((levels_[0][number / 64] & bit(number)) == 0) return false;
    for (auto& level : levels_) {
      uint64_t& word = level[number / 64];
      word &= ~bit(number);
      if (word != 0) break;
      number /= 64;
    }
    return true;
  }

  // The largest, or kNone.
  [[nodiscard]] size_t largest() const noexcept {
    const std::vector<uint64_t>& top = levels_.back();
    return top.empty() || top[0] == 0 ? kNone : descend(levels_.size(), 0);
  }
  // The largest below a number, or kNone.
  [[nodiscard]] size_t below(size_t number) const noexcept {
    for (size_t level = 0; level < levels_.size(); ++level) {
      const uint64_t lower = levels_[level][number / 64] & (bit(number) - 1);
      if (lower != 0) return descend(level, number / 64 * 64 + highest(lower));
      number /= 64;
    }
    return kNone;
  }

 private:
  static constexpr uint64_t bit(size_t number) noexcept { return uint64_t{1} << number % 64; }
  static size_t highest(uint64_t word) noexcept {
    return 63 - static_cast<size_t>(std::countl_zero(word));
  }

  // The largest number under a word: `at` is its place in the level below `level`.
  [[nodiscard]] size_t descend(size_t level, size_t at) const noexcept {
    while (level-- > 0) at = at * 64 + highest(levels_[level][at]);
    return at;
  }

  std::vector<std::vector<uint64_t>> levels_;
};

}  // namespace blatam
