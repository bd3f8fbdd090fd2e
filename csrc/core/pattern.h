// What kind of requests these are, from two figures: how many keys were never seen before, and how
// alike the ages are at which the others come back. A scan brings new keys only; a loop brings back
// every key at the same age; independent draws bring them back at every age.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/life_table.h"

namespace blatam {

class Pattern {
 public:
  enum class Label : uint8_t { kMixed, kSequential, kRandom };
  static constexpr uint8_t kLabels = 3;

  void first() noexcept { ++first_; }
  void again(uint32_t age) noexcept { ++again_[LifeTable::bin_of(age)]; }

  // Names what was seen since the last call, older requests counting half as much each time.
  void decide() noexcept {
    uint64_t again = 0;
    for (const uint32_t count : again_) again += count;
    const uint64_t seen = first_ + again;
    if (seen == 0) return;
    // Most of what comes back does so within a factor of two.
    uint64_t alike = 0;
    for (size_t bin = 0; bin + kDoubling <= again_.size(); ++bin) {
      uint64_t within = 0;
      for (size_t i = bin; i < bin + kDoubling; ++i) within += again_[i];
      alike = std::max(alike, within);
    }
    if (4 * first_ >= 3 * seen || (4 * again >= 3 * seen && 4 * alike >= 3 * again)) {
      label_ = Label::kSequential;
    } else if (2 * first_ <= seen && 2 * alike <= again) {
      label_ = Label::kRandom;
    } else {
      label_ = Label::kMixed;
    }
    first_ /= 2;
    for (uint32_t& count : again_) count /= 2;
  }

  [[nodiscard]] Label label() const noexcept { return label_; }
  [[nodiscard]] std::string_view name() const noexcept {
    constexpr std::string_view kNames[kLabels] = {"mixed", "sequential", "random"};
    return kNames[static_cast<size_t>(label_)];
  }
  void restore(Label label) noexcept { label_ = label; }

 private:
  static constexpr size_t kDoubling = 4;  // bins
  uint64_t first_ = 0;
  std::array<uint32_t, LifeTable::kBins> again_{};
  Label label_ = Label::kMixed;
};

}  // namespace blatam
