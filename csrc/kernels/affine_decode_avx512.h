// The affine decoder with AVX-512. At four bits a group has sixteen values: they are computed once,
// already narrowed, and codes look them up. Internal to kernels_avx512.cc.
#pragma once

#include <immintrin.h>

#include "kernels/affine_avx512.h"

namespace blatam {
namespace {

// ---- stores around the caches -------------------------------------------------------------------

// How output is written: as usual, or around the caches, for which it must be aligned to 64 bytes,
// or to 16 and then takes four stores.
enum class Store { usual, stream16, stream64 };

inline Store store_for(bool stream, const uint8_t* values, size_t unit) {
  const auto place = reinterpret_cast<uintptr_t>(values) | unit;
  if (!stream || place % 16 != 0) return Store::usual;
  return place % 64 == 0 ? Store::stream64 : Store::stream16;
}

template <Store kStore>
void store64(uint8_t* to, __m512i x) {
  if constexpr (kStore == Store::usual) {
    _mm512_storeu_si512(to, x);
  } else if constexpr (kStore == Store::stream64) {
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to), x);
  } else {
    __m128i* const lanes = reinterpret_cast<__m128i*>(to);
    _mm_stream_si128(lanes, _mm512_castsi512_si128(x));
    _mm_stream_si128(lanes + 1, _mm512_extracti32x4_epi32(x, 1));
    _mm_stream_si128(lanes + 2, _mm512_extracti32x4_epi32(x, 2));
    _mm_stream_si128(lanes + 3, _mm512_extracti32x4_epi32(x, 3));
  }
}

// ---- narrowing ----------------------------------------------------------------------------------

// Nearest bfloat16, in the upper half of each lane; what is below it is left over. No NaN.
inline __m512i rounded_bf16(__m512 x) {
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  return _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
}

// 16 floats to 16 patterns of a 16-bit type.
template <class T>
__m256i narrow16(__m512 x) {
  if constexpr (kHalfMeta<T>) {
    return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  } else {
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded_bf16(x), 16));
  }
}

template <class T>
__m512 widen_meta(uint16_t bits) {
  return _mm512_set1_ps(T::Meta::widen(bits));
}

// Values of codes in 16-bit lanes.
template <class T>
__m512i values32(__m512i codes, __m512 scale, __m512 minimum) {
  if constexpr (kHalfMeta<T>) {
    const __m512i low = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(codes));
    const __m512i high = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(codes, 1));
    return _mm512_inserti64x4(
        _mm512_castsi256_si512(
            narrow16<T>(_mm512_fmadd_ps(_mm512_cvtepi32_ps(low), scale, minimum))),
        narrow16<T>(_mm512_fmadd_ps(_mm512_cvtepi32_ps(high), scale, minimum)), 1);
  } else {
    const __m512i even = _mm512_and_si512(codes, _mm512_set1_epi32(0xffff));
    const __m512i odd = _mm512_srli_epi32(codes, 16);
    const __m512i low = rounded_bf16(_mm512_fmadd_ps(_mm512_cvtepi32_ps(even), scale, minimum));
    const __m512i high = rounded_bf16(_mm512_fmadd_ps(_mm512_cvtepi32_ps(odd), scale, minimum));
    return _mm512_mask_blend_epi16(0xaaaaaaaau, _mm512_srli_epi32(low, 16), high);
  }
}

// ---- groups -------------------------------------------------------------------------------------

inline __m256i load_codes32(const uint8_t* from) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
}
inline __m128i load_codes16(const uint8_t* from) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
}

inline __m512 zero_to_fifteen() {
  return _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}

template <class T, int kBits, Store kStore>
void dequantise_full(const uint8_t* codes, const uint8_t* meta, uint8_t* values) {
  const __m512 scale = widen_meta<T>(load_bits<uint16_t>(meta));
  const __m512 minimum = widen_meta<T>(load_bits<uint16_t>(meta + 2));
  if constexpr (kBits == 8 && kSixteenBits<T>) {
    for (int i = 0; i < 2; ++i) {
      const __m512i lanes = _mm512_cvtepu8_epi16(load_codes32(codes + 32 * i));
      store64<kStore>(values + 64 * i, values32<T>(lanes, scale, minimum));
    }
  } else if constexpr (kBits == 8) {
    for (int i = 0; i < 4; ++i) {
      const __m512i lanes = _mm512_cvtepu8_epi32(load_codes16(codes + 16 * i));
      const __m512 x = _mm512_fmadd_ps(_mm512_cvtepi32_ps(lanes), scale, minimum);
      store64<kStore>(values + 64 * i, _mm512_castps_si512(x));
    }
  } else {
    const __m512 all = _mm512_fmadd_ps(zero_to_fifteen(), scale, minimum);
    if constexpr (kSixteenBits<T>) {
      const __m512i table = _mm512_castsi256_si512(narrow16<T>(all));
      const __m512i lanes = _mm512_cvtepu8_epi16(load_codes32(codes));
      const __m512i low = _mm512_and_si512(lanes, _mm512_set1_epi16(15));
      store64<kStore>(values, _mm512_permutexvar_epi16(low, table));
      store64<kStore>(values + 64, _mm512_permutexvar_epi16(_mm512_srli_epi16(lanes, 4), table));
    } else {
      for (int i = 0; i < 2; ++i) {  // only the low four bits of an index count
        const __m512i lanes = _mm512_cvtepu8_epi32(load_codes16(codes + 16 * i));
        store64<kStore>(values + 64 * i, _mm512_castps_si512(_mm512_permutexvar_ps(lanes, all)));
        store64<kStore>(values + 128 + 64 * i, _mm512_castps_si512(_mm512_permutexvar_ps(
                                                   _mm512_srli_epi32(lanes, 4), all)));
      }
    }
  }
}

template <class T, int kBits>
void dequantise_short(const uint8_t* codes, const uint8_t* meta, size_t count, uint8_t* values) {
  if constexpr (kSixteenBits<T>) {
    const __m512 scale = widen_meta<T>(load_bits<uint16_t>(meta));
    const __m512 minimum = widen_meta<T>(load_bits<uint16_t>(meta + 2));
    const Halves halves = {(count + 1) / 2, count / 2};
    __m512i low;
    __m512i high;
    if constexpr (kBits == 8) {
      low = _mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8(halves.low_mask(), codes));
      high = _mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8(halves.high_mask(), codes + halves.low));
    } else {
      const __m512i lanes = _mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8(halves.low_mask(), codes));
      low = _mm512_and_si512(lanes, _mm512_set1_epi16(15));
      high = _mm512_srli_epi16(lanes, 4);
    }
    _mm512_mask_storeu_epi16(values, halves.low_mask(), values32<T>(low, scale, minimum));
    _mm512_mask_storeu_epi16(values + 2 * halves.low, halves.high_mask(),
                             values32<T>(high, scale, minimum));
  } else {
    dequantise_group<T, kBits>(codes, meta, count, values);
  }
}

template <class T, int kBits, Store kStore>
void dequantise_by(const uint8_t* codes, const uint8_t* meta, size_t count, uint8_t* values) {
  for (size_t groups = count / kGroup; groups > 0; --groups) {
    _mm_prefetch(codes + kAhead, _MM_HINT_T0);
    dequantise_full<T, kBits, kStore>(codes, meta, values);
    codes += code_bytes(kBits, kGroup);
    meta += kMetaBytes;
    values += kGroup * sizeof(typename T::Bits);
  }
  if (count % kGroup != 0) dequantise_short<T, kBits>(codes, meta, count % kGroup, values);
  if constexpr (kStore != Store::usual) _mm_sfence();
}

template <class T, int kBits>
void dequantise_row(const uint8_t* codes, const uint8_t* meta, size_t count, uint8_t* values,
                    bool stream) {
  switch (store_for(stream, values, 0)) {
    case Store::usual:
      return dequantise_by<T, kBits, Store::usual>(codes, meta, count, values);
    case Store::stream16:
      return dequantise_by<T, kBits, Store::stream16>(codes, meta, count, values);
    case Store::stream64:
      return dequantise_by<T, kBits, Store::stream64>(codes, meta, count, values);
  }
}

}  // namespace
}  // namespace blatam
