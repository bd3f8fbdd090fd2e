// An Arrival tells a policy when an entry is on its way for the first time: evict() may name it
// several times before its insertion, or never, where there was room.
#pragma once

#include <cstdint>

namespace blatam {

class Arrival {
 public:
  // Whether this is the first word of it. Whoever was announced and not inserted is forgotten.
  [[nodiscard]] bool announce(uint64_t hash) noexcept {
    if (under_way_ && hash_ == hash) return false;
    under_way_ = true;
    hash_ = hash;
    return true;
  }
  void inserted() noexcept { under_way_ = false; }

 private:
  uint64_t hash_ = 0;
  bool under_way_ = false;
};

}  // namespace blatam
