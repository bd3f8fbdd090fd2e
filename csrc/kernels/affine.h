// The affine quantiser: a group of values becomes codes 0 ... 2^bits - 1 on the line
// minimum + code * scale. The minimum is exact (for float32 rounded down to bfloat16) and the scale
// rounded up, so a code never leaves its range and nothing saturates: the error is at most half a
// scale. docs/CODECS.md, "The affine quantiser", is the definition; this header is what host and
// device compile of it.
//
// A group that the line cannot carry escapes: its scale is the pattern kNan, its codes are zero,
// and its values are stored beside it (escapes.h). That is a group with a NaN or an infinity, and
// one whose numbers leave the range of the arithmetic (the end of the line, the scale or its
// inverse).
#pragma once

#include "kernels/arithmetic.h"

namespace blatam {

// How a group is quantised, and what is stored of it.
struct Affine {
  float inverse;  // of the scale; 0 where all values are equal, or the group escapes
  float bias;     // -minimum * inverse
  uint16_t scale;
  uint16_t minimum;
};

// The largest code, and its inverse rounded to nearest.
template <int kBits>
struct Codes {
  static constexpr int32_t kLargest = (1 << kBits) - 1;
  static constexpr float kInverse = 1.0f / static_cast<float>(kLargest);
};

// `lowest` and `highest`: the extremes of a group by key_of, so that both are finite if all are.
template <class T, int kBits>
BLATAM_HD Affine affine_of(float lowest, float highest) {
  using Meta = typename T::Meta;
  const Affine escape = {0.0f, 0.0f, Meta::kNan, 0};
  if (!is_finite(lowest) || !is_finite(highest)) return escape;
  const uint16_t minimum = Meta::narrow_down(lowest);
  const float m = Meta::widen(minimum);
  const uint16_t scale = Meta::narrow_up(mul_rn(sub_rn(highest, m), Codes<kBits>::kInverse));
  const float s = Meta::widen(scale);
  const float inverse = s > 0.0f ? div_rn(1.0f, s) : 0.0f;
  const float end = fma_rn(static_cast<float>(Codes<kBits>::kLargest), s, m);
  if (!Meta::finite(minimum) || !Meta::finite(scale) || !is_finite(inverse) ||
      !T::finite(T::narrow(end)))
    return escape;
  return {inverse, -mul_rn(m, inverse), scale, minimum};
}

// Requires a finite value of the group; in a group that escapes the code is 0.
template <int kBits>
BLATAM_HD uint8_t code_of(float value, const Affine& group) {
  const int32_t code = to_int_rn(fma_rn(value, group.inverse, group.bias));
  // float32 only: there the minimum may lie far from the values, in units of the scale.
  if (code < 0) return 0;
  return static_cast<uint8_t>(code < Codes<kBits>::kLargest ? code : Codes<kBits>::kLargest);
}

// The value of a code, before it is narrowed to the type of the tensor.
template <class Meta>
BLATAM_HD float value_of(uint8_t code, uint16_t scale, uint16_t minimum) {
  return fma_rn(static_cast<float>(code), Meta::widen(scale), Meta::widen(minimum));
}

}  // namespace blatam
