// Spreads 64 bits over 64 bits, one to one: small numbers become hashes in which every bit matters,
// and equal results mean equal arguments.
#pragma once

#include <cstdint>

namespace blatam {

inline uint64_t mix(uint64_t x) noexcept {
  x ^= x >> 32;
  x *= 0xd6e8feb86659fd93ull;
  x ^= x >> 32;
  x *= 0xd6e8feb86659fd93ull;
  return x ^ x >> 32;
}

}  // namespace blatam
