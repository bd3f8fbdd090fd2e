// What the clairvoyant optimum (Belady 1966) would have hit, told in hindsight: a key that comes
// back could have been kept if there was room at every moment since its last use, and is then kept
// (Jain and Lin 2016). Time is cut into steps of a sixteenth of the capacity, and what comes back
// later than the last kSteps of them counts as missed; so does what its owner has forgotten.
//
// It looks at a sample of at most kMost entries' worth of keys. A step costs one addition for each
// step that a key was away.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace blatam {

class Optimum {
 public:
  // Keys are sampled anew from those that its owner sees, whose capacity this is.
  // room: the same as entries, or as much as what they weigh.
  void set_capacity(size_t entries, uint64_t room) noexcept {
    bits_ = static_cast<unsigned>(std::bit_width((entries - 1) / kMost));
    room_ = std::max<uint64_t>(1, room >> bits_);
    step_length_ = std::max<size_t>(1, (entries >> bits_) / 16);
  }
  // bits: of the hash, any that do not decide whether the owner sees it.
  [[nodiscard]] bool sees(uint64_t bits) const noexcept {
    return (bits & ((uint64_t{1} << bits_) - 1)) == 0;
  }

  // A use of a key last used at the moment that use() then returned, or a first use. Returns the
  // moment of this use.
  uint32_t use(uint32_t last, bool first, double cost, uint64_t weight) noexcept {
    ++requests_;
    asked_ += cost;
    if (!first && step_ - last < kSteps) {
      bool room = true;
      for (uint32_t step = last; step != step_; ++step) {
        room &= held_[step % kSteps] + weight <= room_;
      }
      if (room) {
        for (uint32_t step = last; step != step_; ++step) {
          held_[step % kSteps] += weight;
        }
        saved_ += cost;
      }
    }
    const uint32_t now = step_;
    if (requests_ % step_length_ == 0) held_[++step_ % kSteps] = 0;
    return now;
  }

  [[nodiscard]] double hit_ratio() const noexcept { return asked_ > 0 ? saved_ / asked_ : 0; }

 private:
  static constexpr size_t kMost = 1024;
  static constexpr uint32_t kSteps = 512;

  unsigned bits_ = 0;
  uint64_t room_ = 1;
  size_t step_length_ = 1;
  uint32_t step_ = 0;
  uint64_t requests_ = 0;
  double asked_ = 0;
  double saved_ = 0;
  std::array<uint64_t, kSteps> held_{};
};

}  // namespace blatam
