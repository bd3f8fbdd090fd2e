// The affine decoder with AVX2. Four-bit codes of a 16-bit type look their values up byte by byte.
// Internal to kernels_avx2.cc.
#pragma once

#include <immintrin.h>

#include "kernels/affine_avx2.h"

namespace blatam {
namespace {

// Nearest bfloat16, in the upper half of each lane; what is below it is left over. No NaN.
inline __m256i rounded_bf16(__m256 x) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  return _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
}

// 8 floats to 8 patterns of a 16-bit type.
template <class T>
__m128i narrow8(__m256 x) {
  if constexpr (kHalfMeta<T>) {
    return _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  } else {
    const __m256i bits = _mm256_srli_epi32(rounded_bf16(x), 16);
    return _mm256_castsi256_si128(_mm256_permute4x64_epi64(_mm256_packus_epi32(bits, bits), 0x08));
  }
}

// 16 floats to 16 patterns.
template <class T>
__m256i narrow16(__m256 a, __m256 b) {
  if constexpr (kHalfMeta<T>) {
    return _mm256_set_m128i(narrow8<T>(b), narrow8<T>(a));
  } else {
    const __m256i low = _mm256_srli_epi32(rounded_bf16(a), 16);
    const __m256i high = _mm256_srli_epi32(rounded_bf16(b), 16);
    return _mm256_permute4x64_epi64(_mm256_packus_epi32(low, high), 0xd8);
  }
}

// The values of 8 codes, a byte each.
inline __m256 values8(const uint8_t* codes, __m256 scale, __m256 minimum) {
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes));
  return _mm256_fmadd_ps(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)), scale, minimum);
}

// 16 codes, a byte each, to 16 values.
template <class T, bool kStream>
void put_values(const uint8_t* codes, __m256 scale, __m256 minimum, uint8_t* values) {
  const __m256 a = values8(codes, scale, minimum);
  const __m256 b = values8(codes + 8, scale, minimum);
  if constexpr (kSixteenBits<T>) {
    store32<kStream>(values, narrow16<T>(a, b));
  } else {
    store32<kStream>(values, _mm256_castps_si256(a));
    store32<kStream>(values + 32, _mm256_castps_si256(b));
  }
}

// 32 codes in bytes to 32 values, by the low and the high bytes of sixteen.
template <bool kStream>
void look_up(__m256i codes, __m256i low, __m256i high, uint8_t* values) {
  const __m256i lows = _mm256_shuffle_epi8(low, codes);
  const __m256i highs = _mm256_shuffle_epi8(high, codes);
  const __m256i a = _mm256_unpacklo_epi8(lows, highs);  // values 0-7 and 16-23
  const __m256i b = _mm256_unpackhi_epi8(lows, highs);
  store32<kStream>(values, _mm256_permute2x128_si256(a, b, 0x20));
  store32<kStream>(values + 32, _mm256_permute2x128_si256(a, b, 0x31));
}

template <class T, int kBits, bool kStream>
void dequantise_full(const uint8_t* codes, const uint8_t* meta, uint8_t* values) {
  constexpr size_t kStep = 16 * sizeof(typename T::Bits);
  const __m256 scale = _mm256_set1_ps(T::Meta::widen(load_bits<uint16_t>(meta)));
  const __m256 minimum = _mm256_set1_ps(T::Meta::widen(load_bits<uint16_t>(meta + 2)));
  if constexpr (kBits == 8) {
    for (size_t i = 0; i < 4; ++i)
      put_values<T, kStream>(codes + 16 * i, scale, minimum, values + kStep * i);
    return;
  }
  const __m256i both = load_bits32(codes);
  const __m256i fifteen = _mm256_set1_epi8(15);
  const __m256i first = _mm256_and_si256(both, fifteen);
  const __m256i second = _mm256_and_si256(_mm256_srli_epi16(both, 4), fifteen);
  if constexpr (kSixteenBits<T>) {
    const __m256 a = _mm256_fmadd_ps(_mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7), scale, minimum);
    const __m256 b = _mm256_fmadd_ps(_mm256_setr_ps(8, 9, 10, 11, 12, 13, 14, 15), scale, minimum);
    const __m256i all = narrow16<T>(a, b);
    const __m256i bytes = _mm256_set1_epi16(0xff);
    const __m256i low =
        _mm256_packus_epi16(_mm256_and_si256(all, bytes), _mm256_and_si256(all, bytes));
    const __m256i high = _mm256_packus_epi16(_mm256_srli_epi16(all, 8), _mm256_srli_epi16(all, 8));
    const __m256i low_table = _mm256_permute4x64_epi64(low, 0x88);
    const __m256i high_table = _mm256_permute4x64_epi64(high, 0x88);
    look_up<kStream>(first, low_table, high_table, values);
    look_up<kStream>(second, low_table, high_table, values + 64);
  } else {
    alignas(32) uint8_t bytes[kGroup];
    store32<false>(bytes, first);
    store32<false>(bytes + 32, second);
    for (size_t i = 0; i < 4; ++i)
      put_values<T, kStream>(bytes + 16 * i, scale, minimum, values + kStep * i);
  }
}

template <class T, int kBits, bool kStream>
void dequantise_by(const uint8_t* codes, const uint8_t* meta, size_t count, uint8_t* values) {
  for (size_t groups = count / kGroup; groups > 0; --groups) {
    _mm_prefetch(codes + kAhead, _MM_HINT_T0);
    dequantise_full<T, kBits, kStream>(codes, meta, values);
    codes += code_bytes(kBits, kGroup);
    meta += kMetaBytes;
    values += kGroup * sizeof(typename T::Bits);
  }
  if (count % kGroup != 0) dequantise_group<T, kBits>(codes, meta, count % kGroup, values);
  if constexpr (kStream) _mm_sfence();
}

template <class T, int kBits>
void dequantise_row(const uint8_t* codes, const uint8_t* meta, size_t count, uint8_t* values,
                    bool stream) {
  if (stream && reinterpret_cast<uintptr_t>(values) % 32 == 0) {
    dequantise_by<T, kBits, true>(codes, meta, count, values);
  } else {
    dequantise_by<T, kBits, false>(codes, meta, count, values);
  }
}

}  // namespace
}  // namespace blatam
