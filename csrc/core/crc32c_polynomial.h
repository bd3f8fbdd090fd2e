// What the implementations of CRC-32C share: their table of functions, and arithmetic of
// polynomials over one bit modulo the Castagnoli polynomial, from which the compiler computes
// tables and shift constants. Bits are reflected: the top bit of a word is the coefficient of x^0.
// Internal to crc32c.h and its implementations; plain C headers only, everything static.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace blatam {

// One implementation, under the name of what it needs; `extend` is crc32c().
struct Crc32c {
  const char* isa;
  uint32_t (*extend)(uint32_t crc_so_far, const void* data, size_t bytes);
};

extern const Crc32c kCrc32cSse42;

constexpr uint32_t kCastagnoli = 0x82f63b78u;  // x^32 + x^28 + ... + 1 without x^32
constexpr uint32_t kPolynomialOne = 0x80000000u;

// a times x.
static constexpr uint32_t times_x(uint32_t a) { return a >> 1 ^ (kCastagnoli & (0u - (a & 1))); }

// a times b. Masks and no branches, which nothing could predict.
static constexpr uint32_t polynomial_product(uint32_t a, uint32_t b) {
  uint32_t product = 0;
  for (; b != 0; b <<= 1) {
    product ^= a & (0u - (b >> 31));
    a = times_x(a);
  }
  return product;
}

// x to the power `exponent`.
static constexpr uint32_t power_of_x(uint64_t exponent) {
  uint32_t power = kPolynomialOne;
  uint32_t square = times_x(kPolynomialOne);
  for (; exponent != 0; exponent >>= 1) {
    if (exponent & 1) power = polynomial_product(power, square);
    square = polynomial_product(square, square);
  }
  return power;
}

}  // namespace blatam
