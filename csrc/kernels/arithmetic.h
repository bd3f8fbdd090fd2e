// The arithmetic of the codecs, every rounding written out, for host (C++20) and device (CUDA,
// C++17) alike: what one computes, the other computes bit for bit. Everything is static, internal
// to the file that includes it, so that the linker can never pick code compiled for one instruction
// set for a machine without it. Plain C headers only; nothing allocates or keeps state.
//
// Rules that keep the bits equal: no contraction of a * b + c (-ffp-contract=off, --fmad=false),
// fused multiply-add only where fma_rn is written, round to nearest even, no flushing of subnormals
// (parallel.h sees to the mode), and minimum and maximum taken on integer keys, so that -0, +0 and
// NaN have an order and the order of reduction does not matter.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#define BLATAM_HD static __host__ __device__ __forceinline__
#else
#define BLATAM_HD [[maybe_unused]] static inline __attribute__((always_inline))
#endif

namespace blatam {

// ---- bits and operations ------------------------------------------------------------------------

BLATAM_HD uint32_t bits_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

BLATAM_HD float float_of(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

#ifdef __CUDA_ARCH__
BLATAM_HD float add_rn(float a, float b) { return __fadd_rn(a, b); }
BLATAM_HD float sub_rn(float a, float b) { return __fsub_rn(a, b); }
BLATAM_HD float mul_rn(float a, float b) { return __fmul_rn(a, b); }
BLATAM_HD float div_rn(float a, float b) { return __fdiv_rn(a, b); }
BLATAM_HD float fma_rn(float a, float b, float c) { return __fmaf_rn(a, b, c); }
BLATAM_HD float sqrt_rn(float a) { return __fsqrt_rn(a); }
BLATAM_HD int32_t to_int_rn(float a) { return __float2int_rn(a); }
#else
BLATAM_HD float add_rn(float a, float b) { return a + b; }
BLATAM_HD float sub_rn(float a, float b) { return a - b; }
BLATAM_HD float mul_rn(float a, float b) { return a * b; }
BLATAM_HD float div_rn(float a, float b) { return a / b; }
BLATAM_HD float fma_rn(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
BLATAM_HD float sqrt_rn(float a) { return __builtin_sqrtf(a); }
// The nearest integer, ties to even. Requires |a| < 2^22: adding 1.5 * 2^23 leaves no room for a
// fraction, so that the addition itself rounds.
BLATAM_HD int32_t to_int_rn(float a) {
  return static_cast<int32_t>(bits_of(a + 12582912.0f)) - 0x4b400000;
}
#endif

// Bit patterns as unsigned integers in the order of the values: -NaN < -inf < ... < -0 < +0 < ... <
// +inf < +NaN.
BLATAM_HD uint32_t key_of(uint32_t bits) { return bits & 0x80000000u ? ~bits : bits | 0x80000000u; }
BLATAM_HD uint32_t bits_of_key(uint32_t key) {
  return key & 0x80000000u ? key & 0x7fffffffu : ~key;
}

BLATAM_HD bool is_finite(float value) { return (bits_of(value) & 0x7f800000u) != 0x7f800000u; }

// ---- the three types of values ------------------------------------------------------------------

// Each type says how a stored pattern widens to float (exactly), how a float narrows to the nearest
// pattern, and for the 16-bit types how it narrows upwards and downwards. `Meta` is the type in
// which a group's scale and minimum are stored.

struct Bf16 {
  using Bits = uint16_t;
  using Meta = Bf16;
  static constexpr uint16_t kNan = 0x7fff;
  static constexpr float kLargest = 3.3895313892515355e38f;

  BLATAM_HD float widen(Bits bits) { return float_of(static_cast<uint32_t>(bits) << 16); }
  BLATAM_HD Bits narrow(float value) {
    const uint32_t bits = bits_of(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<Bits>(bits >> 16 | 0x40u);
    return static_cast<Bits>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
  }
  // Towards +infinity. Requires value >= 0, infinity included.
  BLATAM_HD Bits narrow_up(float value) {
    return static_cast<Bits>((bits_of(value) + 0xffffu) >> 16);
  }
  // Towards -infinity. Requires a number, infinities included.
  BLATAM_HD Bits narrow_down(float value) {
    const uint32_t bits = bits_of(value);
    return static_cast<Bits>((bits + (bits >> 31) * 0xffffu) >> 16);
  }
  BLATAM_HD bool finite(Bits bits) { return (bits & 0x7f80u) != 0x7f80u; }
};

struct Fp16 {
  using Bits = uint16_t;
  using Meta = Fp16;
  static constexpr uint16_t kNan = 0x7fff;
  static constexpr float kLargest = 65504.0f;

  BLATAM_HD float widen(Bits bits) {
    const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
    const uint32_t exponent = bits >> 10 & 31u;
    const uint32_t mantissa = bits & 0x3ffu;
    if (exponent == 31) {  // infinity, or NaN made quiet as the conversion instructions do
      return float_of(sign | 0x7f800000u | mantissa << 13 | (mantissa != 0 ? 0x400000u : 0u));
    }
    if (exponent == 0) {  // mantissa * 2^-24, exactly
      const float magnitude = mul_rn(static_cast<float>(mantissa), 5.9604644775390625e-8f);
      return float_of(sign | bits_of(magnitude));
    }
    return float_of(sign | (exponent + 112u) << 23 | mantissa << 13);
  }
  BLATAM_HD Bits narrow(float value) {
    const uint32_t bits = bits_of(value);
    const uint32_t sign = bits >> 16 & 0x8000u;
    const uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u)
      return static_cast<Bits>(sign | 0x7e00u | (magnitude >> 13 & 0x3ffu));
    const uint32_t kept = cut(magnitude);
    const uint32_t rest = left_over(magnitude);
    const bool up = rest > 0x80000000u || (rest == 0x80000000u && (kept & 1u));
    return static_cast<Bits>(sign | saturate(kept + up));
  }
  BLATAM_HD Bits narrow_up(float value) {
    const uint32_t magnitude = bits_of(value) & 0x7fffffffu;
    return static_cast<Bits>(saturate(cut(magnitude) + (left_over(magnitude) != 0)));
  }
  BLATAM_HD Bits narrow_down(float value) {
    const uint32_t bits = bits_of(value);
    const uint32_t magnitude = bits & 0x7fffffffu;
    const bool up = (bits >> 31) != 0 && left_over(magnitude) != 0;
    const uint32_t largest = bits >> 31 || magnitude == 0x7f800000u ? 0x7c00u : 0x7bffu;
    const uint32_t narrowed = cut(magnitude) + up;
    return static_cast<Bits>((bits >> 16 & 0x8000u) | (narrowed < largest ? narrowed : largest));
  }
  BLATAM_HD bool finite(Bits bits) { return (bits & 0x7c00u) != 0x7c00u; }

 private:
  // The magnitude of a number or infinity cut to fp16; what exceeds it is infinity or beyond.
  BLATAM_HD uint32_t cut(uint32_t magnitude) {
    if (magnitude >= 0x38800000u) return (magnitude - 0x38000000u) >> 13;  // normal
    const uint32_t shift = 126u - (magnitude >> 23);
    if (shift > 24u) return 0;
    return ((magnitude & 0x7fffffu) | 0x800000u) >> shift;
  }
  // What cut() left out, as a fraction of 2^32 of the last place; ones below the word stick.
  BLATAM_HD uint32_t left_over(uint32_t magnitude) {
    if (magnitude >= 0x38800000u) return magnitude << 19;
    if (magnitude == 0) return 0;
    const uint32_t shift = 126u - (magnitude >> 23);
    if (shift > 24u) return 1;
    return ((magnitude & 0x7fffffu) | 0x800000u) << (32u - shift);
  }
  BLATAM_HD uint32_t saturate(uint32_t narrowed) { return narrowed < 0x7c00u ? narrowed : 0x7c00u; }
};

struct Fp32 {
  using Bits = uint32_t;
  using Meta = Bf16;
  static constexpr float kLargest = 3.4028234663852886e38f;

  BLATAM_HD float widen(Bits bits) { return float_of(bits); }
  BLATAM_HD Bits narrow(float value) { return bits_of(value); }
  BLATAM_HD bool finite(Bits bits) { return (bits & 0x7f800000u) != 0x7f800000u; }
};

// The nearest finite pattern: where rounding or a transform has left the range, its end. Requires a
// number, infinities included.
template <class T>
BLATAM_HD typename T::Bits narrow_finite(float value) {
  if (value > T::kLargest) value = T::kLargest;
  if (value < -T::kLargest) value = -T::kLargest;
  return T::narrow(value);
}

// ---- memory -------------------------------------------------------------------------------------

// Payloads have no alignment and are little-endian, as are all processors we build for.
template <class Bits>
BLATAM_HD Bits load_bits(const uint8_t* from) {
  Bits bits;
  memcpy(&bits, from, sizeof bits);
  return bits;
}

template <class Bits>
BLATAM_HD void store_bits(uint8_t* to, Bits bits) {
  memcpy(to, &bits, sizeof bits);
}

}  // namespace blatam
