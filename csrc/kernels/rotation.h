// The rotation that spreads outliers over a head: signs, then the fast Walsh-Hadamard transform
// (FWHT), then a factor that keeps lengths. Its own inverse but for the order. A head whose size is
// no power of two is cut into blocks that are, the largest first: 80 = 64 + 16, 576 = 512 + 64.
// docs/CODECS.md, "The rotation", is the definition.
#pragma once

#include "kernels/arithmetic.h"

namespace blatam {

// A row with a magnitude of 2^96 or more is not rotated but escapes: no sum can then overflow.
constexpr uint32_t kRotationLimit = 0x6f800000u;

// Word i of the signs that belong to a seed: output i of splitmix64 (Steele, Lea and Flood, 2014).
BLATAM_HD uint64_t sign_word(uint64_t seed, uint64_t i) {
  uint64_t z = seed + (i + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

// The sign of channel `dim`: 0 or 0x80000000, to be added to a pattern by exclusive or.
BLATAM_HD uint32_t sign_of(uint64_t seed, uint64_t dim) {
  return static_cast<uint32_t>(sign_word(seed, dim / 64) >> dim % 64 & 1u) << 31;
}

// The exponent of the greatest power of two in `size`, which is at least 1.
BLATAM_HD uint32_t log2_below(size_t size) {
#ifdef __CUDA_ARCH__
  return 63u - static_cast<uint32_t>(__clzll(static_cast<long long>(size)));
#else
  return 63u - static_cast<uint32_t>(__builtin_clzll(size));
#endif
}

// The size of the block that begins where `left` channels are left: their greatest power of two.
BLATAM_HD size_t block_size(size_t left) { return size_t{1} << log2_below(left); }

// 1 / sqrt(size), rounded to nearest, for a power of two below 2^32: sqrt(1/2) or 1, times a power
// of two.
BLATAM_HD float length_factor(size_t size) {
  const uint32_t exponent = log2_below(size);
  return float_of((exponent % 2 != 0 ? 0x3f3504f3u : 0x3f800000u) - (exponent / 2 << 23));
}

// Stages from the widest to the narrowest; each takes every pair once to its sum and difference.
BLATAM_HD void fwht(float* values, size_t size) {
  for (size_t half = size / 2; half > 0; half /= 2) {
    for (size_t start = 0; start < size; start += 2 * half) {
      for (size_t i = start; i < start + half; ++i) {
        const float a = values[i];
        const float b = values[i + half];
        values[i] = add_rn(a, b);
        values[i + half] = sub_rn(a, b);
      }
    }
  }
}

// Rotated values, floats in memory whose group metadata is of type T::Meta.
template <class T>
struct Rotated {
  using Bits = uint32_t;
  using Meta = typename T::Meta;
  BLATAM_HD float widen(Bits bits) { return float_of(bits); }
  BLATAM_HD Bits narrow(float value) { return bits_of(value); }
  BLATAM_HD bool finite(Bits bits) { return (bits & 0x7f800000u) != 0x7f800000u; }
};

}  // namespace blatam
