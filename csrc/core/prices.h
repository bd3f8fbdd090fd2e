// Prices put entries on shelves by what a hit on them is worth for the room they take, in octaves,
// so that whoever ranks shelves weighs cost and size without looking at entries. A shelf's price is
// that of what was put on it of late, on average: a value a little above an octave and one a little
// below are weighed as what they are. Where all prices are equal there is one shelf.
//
// Octaves get their shelves as they come. When there is none left, an empty shelf is given to the
// new octave; else the nearest one takes it in.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdlib>

namespace blatam {

using Octave = int8_t;

class Prices {
 public:
  static constexpr unsigned kShelves = 16;

  // The power of two below, from 2^-128 to 2^127. Requires a number that is not negative.
  static Octave octave_of(double price) noexcept {
    const auto exponent = static_cast<int>(std::bit_cast<uint64_t>(price) >> 52) - 1023;
    return static_cast<Octave>(std::clamp(exponent, -128, 127));
  }

  // The shelf of an octave, or the nearest. Requires shelves() > 0.
  [[nodiscard]] unsigned shelf_of(Octave octave) const noexcept {
    if (octaves_[latest_] == octave) return latest_;
    unsigned nearest = 0;
    for (unsigned shelf = 1; shelf < shelves_; ++shelf) {
      if (apart(shelf, octave) < apart(nearest, octave)) nearest = shelf;
    }
    return nearest;
  }

  // Whether put() would change nothing, as where all prices are equal. Requires the price's octave.
  [[nodiscard]] bool knows(double price, Octave octave) const noexcept {
    return shelves_ != 0 && prices_[latest_] == price && octaves_[latest_] == octave;
  }

  // The shelf for one more entry of this price. is_empty(shelf): whether nothing lies there.
  template <class IsEmpty>
  unsigned put(double price, IsEmpty&& is_empty) noexcept {
    const Octave octave = octave_of(price);
    unsigned shelf = shelves_ == 0 ? 0 : shelf_of(octave);
    if (shelves_ == 0 || octaves_[shelf] != octave) {
      unsigned free = shelves_;
      if (shelves_ == kShelves) {
        free = 0;
        while (free < kShelves && !is_empty(free)) ++free;
      }
      if (free < kShelves) {
        shelf = free;
        octaves_[shelf] = octave;
        prices_[shelf] = price;
        shelves_ = std::max(shelves_, shelf + 1);
      }
    }
    prices_[shelf] += (price - prices_[shelf]) / kMemory;
    latest_ = shelf;
    return shelf;
  }

  [[nodiscard]] unsigned shelves() const noexcept { return shelves_; }
  [[nodiscard]] double price(unsigned shelf) const noexcept { return prices_[shelf]; }

 private:
  static constexpr double kMemory = 16;  // entries

  [[nodiscard]] int apart(unsigned shelf, Octave octave) const noexcept {
    return std::abs(octaves_[shelf] - octave);
  }

  unsigned shelves_ = 0;  // that were given an octave
  unsigned latest_ = 0;
  std::array<Octave, kShelves> octaves_{};
  std::array<double, kShelves> prices_{};
};

}  // namespace blatam
