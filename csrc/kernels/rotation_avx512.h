// The rotation and the codebooks with AVX-512. Internal to kernels_avx512.cc.
//
// A block of up to 256 values is transformed in registers. Between registers a stage is an addition
// and a subtraction; within one, the partner of each lane is brought beside it by a permutation,
// and lanes in the upper half of a pair change their own sign, which turns the sum into the
// difference.
#pragma once

#include <immintrin.h>

#include "kernels/affine_avx512.h"
#include "kernels/affine_decode_avx512.h"
#include "kernels/rotation_loops.h"

namespace blatam {
namespace {

// ---- the transform ------------------------------------------------------------------------------

// For a stage within a register: 1 in lanes that come first in their pair, -1 in the others.
alignas(64) constexpr float kSides[4][16] = {
    {1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1, -1},
    {1, 1, 1, 1, -1, -1, -1, -1, 1, 1, 1, 1, -1, -1, -1, -1},
    {1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1},
    {1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1},
};

// partner + x in lanes that come first, partner - x in the others. Written as a product with 1 or
// -1, which is exact, because additions have half of the ports that fused operations add.
inline __m512 butterfly(__m512 x, __m512 partner, const float* sides) {
  return _mm512_fmadd_ps(x, _mm512_load_ps(sides), partner);
}

inline __m512 fwht_lanes(__m512 x) {
  x = butterfly(x, _mm512_shuffle_f32x4(x, x, _MM_SHUFFLE(1, 0, 3, 2)), kSides[0]);
  x = butterfly(x, _mm512_shuffle_f32x4(x, x, _MM_SHUFFLE(2, 3, 0, 1)), kSides[1]);
  x = butterfly(x, _mm512_permute_ps(x, _MM_SHUFFLE(1, 0, 3, 2)), kSides[2]);
  return butterfly(x, _mm512_permute_ps(x, _MM_SHUFFLE(2, 3, 0, 1)), kSides[3]);
}

// The stages between registers, from kHalf registers apart down to one.
template <int kHalf, int kRegisters>
[[gnu::always_inline]] inline void stages(__m512* x) {
  if constexpr (kHalf > 0) {
#pragma GCC unroll 16
    for (int i = 0; i < kRegisters; ++i) {
      if ((i & kHalf) != 0) continue;
      const __m512 a = x[i];
      const __m512 b = x[i + kHalf];
      x[i] = _mm512_add_ps(a, b);
      x[i + kHalf] = _mm512_sub_ps(a, b);
    }
    stages<kHalf / 2, kRegisters>(x);
  }
}

// ---- heads in and out ---------------------------------------------------------------------------

// 16 values in order.
template <class T>
__m512 load_lanes(const uint8_t* from, __mmask16 there) {
  if constexpr (!kSixteenBits<T>) return _mm512_maskz_loadu_ps(there, from);
  const __m256i bits = _mm256_maskz_loadu_epi16(there, from);
  if constexpr (kHalfMeta<T>) return _mm512_cvtph_ps(bits);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

inline __mmask16 first_lanes(size_t count) {
  return static_cast<__mmask16>(count >= 16 ? 0xffff : (1u << count) - 1);
}

inline __m512 with_signs(__m512 x, const uint32_t* signs) {
  return _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(x), _mm512_loadu_si512(signs)));
}

template <class T>
void store_lanes(uint8_t* to, __m512 x) {
  x = _mm512_max_ps(_mm512_min_ps(x, _mm512_set1_ps(T::kLargest)), _mm512_set1_ps(-T::kLargest));
  if constexpr (kSixteenBits<T>) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), narrow16<T>(x));
  } else {
    _mm512_storeu_ps(to, x);
  }
}

// A block of 16 * kRegisters values passes through registers once: `load` brings 16 of them,
// `store` takes them, transformed and times `factor`.
template <int kRegisters, class Load, class Store>
[[gnu::always_inline]] inline void pass(float factor, const Load& load, const Store& store) {
  __m512 x[kRegisters];
#pragma GCC unroll 16
  for (int i = 0; i < kRegisters; ++i) x[i] = load(static_cast<size_t>(16 * i));
  stages<kRegisters / 2, kRegisters>(x);
  const __m512 factors = _mm512_set1_ps(factor);
#pragma GCC unroll 16
  for (int i = 0; i < kRegisters; ++i)
    store(static_cast<size_t>(16 * i), _mm512_mul_ps(fwht_lanes(x[i]), factors));
}

// A block of 16 to 256 values.
template <class Load, class Store>
[[gnu::always_inline]] inline void pass_block(size_t size, float factor, const Load& load,
                                              const Store& store) {
  switch (size) {
    case 256:
      return pass<16>(factor, load, store);
    case 128:
      return pass<8>(factor, load, store);
    case 64:
      return pass<4>(factor, load, store);
    case 32:
      return pass<2>(factor, load, store);
    default:
      return pass<1>(factor, load, store);
  }
}

// The stages of a block that is wider than 256, until it falls into blocks of 256.
inline void narrow_block(float* values, size_t size) {
  for (size_t width = size; width > 256; width /= 2) {
    for (size_t start = 0; start < size; start += width) {
      for (size_t i = start; i < start + width / 2; i += 16) {
        const __m512 a = _mm512_loadu_ps(values + i);
        const __m512 b = _mm512_loadu_ps(values + i + width / 2);
        _mm512_storeu_ps(values + i, _mm512_add_ps(a, b));
        _mm512_storeu_ps(values + i + width / 2, _mm512_sub_ps(a, b));
      }
    }
  }
}

template <class T>
bool rotate_wide(const uint8_t* values, const uint32_t* signs, size_t head_dim, float* rotated) {
  constexpr size_t kSize = sizeof(typename T::Bits);
  __m512i greatest = _mm512_setzero_si512();
  size_t begin = 0;
  while (head_dim - begin >= 16) {
    const size_t size = block_size(head_dim - begin);
    const float factor = length_factor(size);
    const auto load = [&](size_t i) {
      const __m512 x = load_lanes<T>(values + (begin + i) * kSize, 0xffff);
      greatest = _mm512_max_epu32(
          greatest, _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fffffff)));
      return with_signs(x, signs + begin + i);
    };
    float* const out = rotated + begin;
    if (size <= 256) {
      pass_block(size, factor, load, [&](size_t i, __m512 x) { _mm512_storeu_ps(out + i, x); });
    } else {
      for (size_t i = 0; i < size; i += 16) _mm512_storeu_ps(out + i, load(i));
      narrow_block(out, size);
      for (float* part = out; part < out + size; part += 256)
        pass<16>(
            factor, [&](size_t i) { return _mm512_loadu_ps(part + i); },
            [&](size_t i, __m512 x) { _mm512_storeu_ps(part + i, x); });
    }
    begin += size;
  }
  const __m512i limit = _mm512_set1_epi32(static_cast<int>(kRotationLimit));
  if (_mm512_cmpge_epu32_mask(greatest, limit) != 0) return false;
  return rotate_head<T>(values + begin * kSize, signs + begin, head_dim - begin, rotated + begin);
}

template <class T>
void unrotate_wide(float* rotated, const uint32_t* signs, size_t head_dim, uint8_t* values) {
  constexpr size_t kSize = sizeof(typename T::Bits);
  size_t begin = 0;
  while (head_dim - begin >= 16) {
    const size_t size = block_size(head_dim - begin);
    const float factor = length_factor(size);
    const size_t width = size < 256 ? size : 256;
    if (size > 256) narrow_block(rotated + begin, size);
    for (size_t part = begin; part < begin + size; part += width)
      pass_block(
          width, factor, [&](size_t i) { return _mm512_loadu_ps(rotated + part + i); },
          [&](size_t i, __m512 x) {
            store_lanes<T>(values + (part + i) * kSize, with_signs(x, signs + part + i));
          });
    begin += size;
  }
  unrotate_head<T>(rotated + begin, signs + begin, head_dim - begin, values + begin * kSize);
}

template <class T>
float sum_of_squares_wide(const uint8_t* values, size_t count) {
  __m512 sum = _mm512_setzero_ps();
  for (size_t i = 0; i < count; i += 16) {
    const __m512 x = load_lanes<T>(values + i * sizeof(typename T::Bits), first_lanes(count - i));
    sum = _mm512_fmadd_ps(x, x, sum);
  }
  float lanes[kSumLanes];
  _mm512_storeu_ps(lanes, sum);
  return sum_of_lanes(lanes);
}

// ---- codebooks ----------------------------------------------------------------------------------

// Bisection among the thresholds, kept in one register.
template <int kBits>
__m512i level_codes(__m512 x, __m512 thresholds) {
  __m512i code = _mm512_setzero_si512();
#pragma GCC unroll 4
  for (int step = 1 << (kBits - 1); step > 0; step /= 2) {
    const __m512i below = _mm512_add_epi32(code, _mm512_set1_epi32(step - 1));
    const __mmask16 above =
        _mm512_cmp_ps_mask(x, _mm512_permutexvar_ps(below, thresholds), _CMP_GT_OQ);
    code = _mm512_mask_add_epi32(code, above, code, _mm512_set1_epi32(step));
  }
  return code;
}

template <int kBits>
void quantise_levels_wide(const float* rotated, float inverse, size_t count, uint8_t* codes) {
  constexpr __mmask16 kThere = (1u << ((1 << kBits) - 1)) - 1;
  const __m512 thresholds = _mm512_maskz_loadu_ps(kThere, codebook<kBits>().thresholds);
  const __m512 factor = _mm512_set1_ps(inverse);
  size_t i = 0;
  for (; i + kGroup <= count; i += kGroup) {
    __m512i found[4];
    for (size_t j = 0; j < 4; ++j)
      found[j] = level_codes<kBits>(_mm512_mul_ps(_mm512_loadu_ps(rotated + i + 16 * j), factor),
                                    thresholds);
    if constexpr (kBits == 4) {
      for (size_t j = 0; j < 2; ++j) {
        const __m512i both = _mm512_or_si512(found[j], _mm512_slli_epi32(found[j + 2], 4));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + 16 * j), _mm512_cvtepi32_epi8(both));
      }
    } else {
      const __m512i three = _mm512_set1_epi32(3);
      __m512i low = _mm512_and_si512(found[0], three);
      uint64_t high = 0;
      for (int j = 0; j < 4; ++j) {
        const __m512i part = _mm512_and_si512(found[j], three);
        low = _mm512_or_si512(low, _mm512_sll_epi32(part, _mm_cvtsi32_si128(2 * j)));
        high |= uint64_t{_mm512_test_epi32_mask(found[j], _mm512_set1_epi32(4))} << (16 * j);
      }
      _mm_storeu_si128(reinterpret_cast<__m128i*>(codes), _mm512_cvtepi32_epi8(low));
      store_bits(codes + 16, high);
    }
    codes += level_bytes(kBits, kGroup);
  }
  if (i < count) quantise_levels<kBits>(rotated + i, inverse, count - i, codes);
}

template <int kBits>
void dequantise_levels_wide(const uint8_t* codes, float norm, size_t count, float* rotated) {
  constexpr __mmask16 kThere = static_cast<__mmask16>((1u << (1 << kBits)) - 1);
  const __m512 levels =
      _mm512_mul_ps(_mm512_maskz_loadu_ps(kThere, codebook<kBits>().levels), _mm512_set1_ps(norm));
  size_t i = 0;
  for (; i + kGroup <= count; i += kGroup) {
    if constexpr (kBits == 4) {
      for (size_t j = 0; j < 2; ++j) {  // only the low four bits of an index count
        const __m512i lanes = _mm512_cvtepu8_epi32(load_codes16(codes + 16 * j));
        _mm512_storeu_ps(rotated + i + 16 * j, _mm512_permutexvar_ps(lanes, levels));
        _mm512_storeu_ps(rotated + i + 32 + 16 * j,
                         _mm512_permutexvar_ps(_mm512_srli_epi32(lanes, 4), levels));
      }
    } else {
      const __m512i lanes = _mm512_cvtepu8_epi32(load_codes16(codes));
      const auto high = load_bits<uint64_t>(codes + 16);
      for (int j = 0; j < 4; ++j) {
        __m512i index = _mm512_and_si512(_mm512_srl_epi32(lanes, _mm_cvtsi32_si128(2 * j)),
                                         _mm512_set1_epi32(3));
        index = _mm512_mask_or_epi32(index, static_cast<__mmask16>(high >> (16 * j)), index,
                                     _mm512_set1_epi32(4));
        _mm512_storeu_ps(rotated + i + 16 * static_cast<size_t>(j),
                         _mm512_permutexvar_ps(index, levels));
      }
    }
    codes += level_bytes(kBits, kGroup);
  }
  if (i < count) dequantise_levels<kBits>(codes, norm, count - i, rotated + i);
}

}  // namespace
}  // namespace blatam
