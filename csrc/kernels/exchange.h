// The arithmetic of formats that other engines store: `fp8_e4m3`, `int8_per_token_head`, `q8_0`.
// docs/CODECS.md, "Formats for exchange", is the definition.
#pragma once

#include "kernels/arithmetic.h"

namespace blatam {

// ---- fp8 e4m3: sign, 4 bits of exponent (bias 7), 3 of mantissa; no infinity; 448 the greatest --

constexpr uint8_t kFp8Nan = 0x7f;

// Nearest, ties to even; what is greater than 448 becomes 448. Requires a number.
BLATAM_HD uint8_t fp8_of(float value) {
  const uint32_t bits = bits_of(value);
  const uint32_t sign = bits >> 24 & 0x80u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  uint32_t code;
  if (magnitude >= 0x43e00000u) {  // 448
    code = 0x7eu;
  } else if (magnitude >= 0x3c800000u) {  // 2^-6: normal; the rounding may carry into the exponent
    code = (magnitude - 0x3c000000u + 0x7ffffu + (magnitude >> 20 & 1u)) >> 20;
  } else {  // a multiple of 2^-9: adding 2^14 leaves no room for anything finer
    code = bits_of(add_rn(float_of(magnitude), 16384.0f)) - 0x46800000u;
  }
  return static_cast<uint8_t>(sign | code);
}

// Exactly. Requires code & 0x7f != 0x7f.
BLATAM_HD float value_of_fp8(uint8_t code) {
  // The same fields in a float mean 2^-120 times as much, subnormals included.
  const float scaled = float_of(static_cast<uint32_t>(code & 0x7fu) << 20);
  const uint32_t sign = static_cast<uint32_t>(code & 0x80u) << 24;
  return float_of(bits_of(mul_rn(scaled, 1.329227995784916e36f)) | sign);
}

// ---- fp8 e5m2: sign, 5 bits of exponent (bias 15), 2 of mantissa; infinity and NaN as fp16 has
// them, 57344 the greatest number. Caches hold it; there is no codec of it
// -------------------------------

constexpr uint8_t kE5m2Infinity = 0x7c;  // greater magnitudes are NaN

// Nearest, ties to even; what is greater than 57344 becomes 57344. Requires a finite value.
BLATAM_HD uint8_t e5m2_of(float value) {
  const uint32_t bits = bits_of(value);
  const uint32_t sign = bits >> 24 & 0x80u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  uint32_t code;
  if (magnitude >= 0x47600000u) {  // 57344
    code = 0x7bu;
  } else if (magnitude >= 0x38800000u) {  // 2^-14: normal; the rounding may carry, as above
    code = (magnitude - 0x38000000u + 0xfffffu + (magnitude >> 21 & 1u)) >> 21;
  } else {  // a multiple of 2^-16, which is what 2^7 leaves room for
    code = bits_of(add_rn(float_of(magnitude), 128.0f)) - 0x43000000u;
  }
  return static_cast<uint8_t>(sign | code);
}

// Exactly. Requires a code of a number.
BLATAM_HD float value_of_e5m2(uint8_t code) {
  // The same fields in a float mean 2^-112 times as much, subnormals included.
  const float scaled = float_of(static_cast<uint32_t>(code & 0x7fu) << 21);
  const uint32_t sign = static_cast<uint32_t>(code & 0x80u) << 24;
  return float_of(bits_of(mul_rn(scaled, 5.192296858534828e33f)) | sign);
}

// ---- symmetric int8 -----------------------------------------------------------------------------

constexpr float kInt8Range = 127.0f;

// Requires a finite value, and |value * inverse| little above 127 at most.
BLATAM_HD int8_t int8_of(float value, float inverse) {
  const int32_t code = to_int_rn(mul_rn(value, inverse));
  return static_cast<int8_t>(code < -127 ? -127 : code > 127 ? 127 : code);
}

// `int8_per_token_head`: the float32 scale of a row from its greatest magnitude.
constexpr uint32_t kFp32Nan = 0x7fffffffu;

// The inverse of a scale that is used; 0 for none, infinity if the row escapes.
BLATAM_HD float inverse_of(float scale) {
  if (scale == 0.0f) return 0.0f;
  return is_finite(scale) ? div_rn(1.0f, scale) : float_of(0x7f800000u);
}

}  // namespace blatam
