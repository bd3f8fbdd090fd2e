// Recall remembers roughly how often a key was used that has left: a table in which each key has
// one place, taken over by whoever comes next. Two bytes a place: thirteen bits of the hash and the
// class of uses. It mistakes one unknown key in eight thousand for a known one.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/order.h"

namespace blatam {

class Recall {
 public:
  // Places for four times as many keys, or up to twice that.
  void grow(size_t entries) {
    const size_t places = std::bit_ceil(kPlaces * entries);
    // What was remembered is lost; it would be after as many evictions.
    if (places > places_.size()) places_.assign(places, 0);
  }

  void left(uint64_t hash, uint8_t uses) noexcept {
    if (places_.empty()) return;
    places_[place(hash)] = static_cast<uint16_t>(tag(hash) << 3 | class_of(uses));
    // A place that holds a tag of 0 and one use looks empty: that key is forgotten.
  }
  // How often the key was used, at least; 0 if it is not remembered.
  [[nodiscard]] uint8_t uses(uint64_t hash) const noexcept {
    if (places_.empty()) return 0;
    const uint16_t held = places_[place(hash)];
    if (held == 0 || held >> 3 != tag(hash)) return 0;
    return static_cast<uint8_t>(1 << (held & 7));
  }
  [[nodiscard]] size_t memory_bytes() const noexcept {
    return places_.capacity() * sizeof(uint16_t);
  }

 private:
  static constexpr size_t kPlaces = 4;

  [[nodiscard]] size_t place(uint64_t hash) const noexcept { return hash & (places_.size() - 1); }
  static uint16_t tag(uint64_t hash) noexcept { return static_cast<uint16_t>(hash >> 51); }

  std::vector<uint16_t> places_;
};

}  // namespace blatam
