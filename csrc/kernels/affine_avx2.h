// The affine quantiser with AVX2, over groups of 64 along a row: affine_avx512.h with half of the
// width. Eight groups share one division, and the next eight are measured before the codes of these
// are written. Internal to kernels_avx2.cc.
#pragma once

#include <immintrin.h>

#include "kernels/affine_loops.h"
#include "kernels/rotation_loops.h"

namespace blatam {
namespace {

constexpr size_t kAhead = 2048;  // bytes
constexpr size_t kAtOnce = 8;    // groups

template <class T>
constexpr bool kSixteenBits = sizeof(typename T::Bits) == 2;

// True for the types whose metadata are fp16.
template <class T>
constexpr bool kHalfMeta = static_cast<uint16_t>(T::Meta::kLargest) == 65504;

inline __m256i load_bits32(const uint8_t* from) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
}

// ---- extremes -----------------------------------------------------------------------------------

// 16 bits: unsigned integers in the order of the values, as key_of() makes them.
inline __m256i keys16(__m256i bits) {
  const __m256i sign = _mm256_srai_epi16(bits, 15);
  return _mm256_xor_si256(bits, _mm256_or_si256(sign, _mm256_set1_epi16(-0x8000)));
}

// 32 bits: signed integers in the order of the values; its own inverse.
inline __m256i keys32(__m256i bits) {
  const __m256i sign = _mm256_srai_epi32(bits, 31);
  return _mm256_xor_si256(bits, _mm256_srli_epi32(sign, 1));
}

// Keys of the extremes of eight groups, a 32-bit lane each.
struct Extremes {
  alignas(32) uint32_t low[kAtOnce];
  alignas(32) uint32_t high[kAtOnce];
};

inline uint32_t least16(__m256i x) {
  const __m128i half = _mm_min_epu16(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
  return static_cast<uint32_t>(_mm_cvtsi128_si32(_mm_minpos_epu16(half))) & 0xffffu;
}

inline uint32_t greatest16(__m256i x) {
  const __m128i half = _mm_max_epu16(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
  const __m128i turned = _mm_xor_si128(half, _mm_set1_epi16(-1));
  return ~static_cast<uint32_t>(_mm_cvtsi128_si32(_mm_minpos_epu16(turned))) & 0xffffu;
}

inline uint32_t least32(__m256i x) {
  __m128i half = _mm_min_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
  half = _mm_min_epi32(half, _mm_shuffle_epi32(half, 0x4e));
  half = _mm_min_epi32(half, _mm_shuffle_epi32(half, 0xb1));
  return static_cast<uint32_t>(_mm_cvtsi128_si32(half));
}

inline uint32_t greatest32(__m256i x) {
  __m128i half = _mm_max_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
  half = _mm_max_epi32(half, _mm_shuffle_epi32(half, 0x4e));
  half = _mm_max_epi32(half, _mm_shuffle_epi32(half, 0xb1));
  return static_cast<uint32_t>(_mm_cvtsi128_si32(half));
}

template <class T>
void extremes_of_group(const uint8_t* from, uint32_t* low, uint32_t* high) {
  if constexpr (kSixteenBits<T>) {
    const __m256i a = keys16(load_bits32(from));
    const __m256i b = keys16(load_bits32(from + 32));
    const __m256i c = keys16(load_bits32(from + 64));
    const __m256i d = keys16(load_bits32(from + 96));
    *low = least16(_mm256_min_epu16(_mm256_min_epu16(a, b), _mm256_min_epu16(c, d)));
    *high = greatest16(_mm256_max_epu16(_mm256_max_epu16(a, b), _mm256_max_epu16(c, d)));
  } else {
    __m256i least = keys32(load_bits32(from));
    __m256i greatest = least;
    for (int i = 1; i < 8; ++i) {
      const __m256i keys = keys32(load_bits32(from + 32 * i));
      least = _mm256_min_epi32(least, keys);
      greatest = _mm256_max_epi32(greatest, keys);
    }
    *low = least32(least);
    *high = greatest32(greatest);
  }
}

// 16-bit patterns in 32-bit lanes, as floats and back; metadata of type Meta.
template <class Meta>
__m256 widen_lanes(__m256i lanes) {
  if constexpr (Meta::kLargest == Fp16::kLargest) {
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(lanes, lanes), 0x08);
    return _mm256_cvtph_ps(_mm256_castsi256_si128(packed));
  } else {
    return _mm256_castsi256_ps(_mm256_slli_epi32(lanes, 16));
  }
}

template <class T>
__m256i bits_of_keys(__m256i keys) {
  if constexpr (!kSixteenBits<T>) return keys32(keys);
  const __m256i top = _mm256_set1_epi32(0x8000);
  const __m256i negative = _mm256_cmpeq_epi32(_mm256_and_si256(keys, top), _mm256_setzero_si256());
  return _mm256_xor_si256(
      keys, _mm256_or_si256(top, _mm256_and_si256(negative, _mm256_set1_epi32(0x7fff))));
}

template <class T>
__m256 values_of_bits(__m256i bits) {
  if constexpr (!kSixteenBits<T>) return _mm256_castsi256_ps(bits);
  return widen_lanes<typename T::Meta>(bits);
}

// ---- scale and minimum --------------------------------------------------------------------------

// What affine_of() computes, for a group in each lane.
struct Lines {
  __m256 inverse;
  __m256 bias;
  __m256i meta;  // scale in the low half of a lane, minimum in the high half
  int escaped;   // a bit for each lane
};

inline __m256i at_least(__m256 x, int bits) {
  const __m256i magnitude = _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x7fffffff));
  return _mm256_cmpgt_epi32(magnitude, _mm256_set1_epi32(bits - 1));
}

template <class T, int kBits>
Lines lines_of(__m256i low_keys, __m256i high_keys) {
  const __m256i low_bits = bits_of_keys<T>(low_keys);
  const __m256 low = values_of_bits<T>(low_bits);
  const __m256 high = values_of_bits<T>(bits_of_keys<T>(high_keys));
  const __m256i upper = _mm256_set1_epi32(static_cast<int>(0xffff0000));
  __m256i minimum;
  __m256 m;
  if constexpr (kSixteenBits<T>) {
    minimum = _mm256_slli_epi32(low_bits, 16);
    m = low;
  } else if constexpr (kHalfMeta<T>) {
    const __m128i halves = _mm256_cvtps_ph(low, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    minimum = _mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16);
    m = _mm256_cvtph_ps(halves);
  } else {
    const __m256i bits = _mm256_castps_si256(low);
    const __m256i away = _mm256_srli_epi32(_mm256_srai_epi32(bits, 31), 16);
    minimum = _mm256_and_si256(_mm256_add_epi32(bits, away), upper);
    m = _mm256_castsi256_ps(minimum);
  }
  const __m256 step = _mm256_mul_ps(_mm256_sub_ps(high, m), _mm256_set1_ps(Codes<kBits>::kInverse));
  __m256i scale;
  __m256 s;
  if constexpr (kHalfMeta<T>) {
    const __m128i halves = _mm256_cvtps_ph(step, _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC);
    scale = _mm256_cvtepu16_epi32(halves);
    s = _mm256_cvtph_ps(halves);
  } else {
    const __m256i up = _mm256_add_epi32(_mm256_castps_si256(step), _mm256_set1_epi32(0xffff));
    scale = _mm256_srli_epi32(up, 16);
    s = _mm256_castsi256_ps(_mm256_and_si256(up, upper));
  }
  const __m256 uneven = _mm256_cmp_ps(s, _mm256_setzero_ps(), _CMP_GT_OQ);
  const __m256 inverse = _mm256_and_ps(uneven, _mm256_div_ps(_mm256_set1_ps(1.0f), s));
  const __m256 end =
      _mm256_fmadd_ps(_mm256_set1_ps(static_cast<float>(Codes<kBits>::kLargest)), s, m);
  // See affine_avx512.h.
  constexpr int kInfinity = 0x7f800000;
  __m256i bad = at_least(end, !kSixteenBits<T> ? kInfinity
                              : kHalfMeta<T>   ? 0x477ff000
                                               : 0x7f7f8000);
  if constexpr (!kHalfMeta<T>) bad = _mm256_or_si256(bad, at_least(inverse, kInfinity));
  if constexpr (!kSixteenBits<T>) {
    bad = _mm256_or_si256(bad, at_least(step, kInfinity));
    bad = _mm256_or_si256(bad, at_least(low, kInfinity));
  }
  const __m256 bias = _mm256_mul_ps(_mm256_sub_ps(_mm256_setzero_ps(), m), inverse);
  const __m256 bad_lanes = _mm256_castsi256_ps(bad);
  return {_mm256_andnot_ps(bad_lanes, inverse), _mm256_andnot_ps(bad_lanes, bias),
          _mm256_blendv_epi8(_mm256_or_si256(minimum, scale), _mm256_set1_epi32(Bf16::kNan), bad),
          _mm256_movemask_ps(bad_lanes)};
}

// ---- codes --------------------------------------------------------------------------------------

struct Pair {
  __m256 a;
  __m256 b;
};

// 16 values as floats: of bfloat16 the even ones, then the odd ones; else in order.
template <class T>
Pair load16(const uint8_t* from) {
  if constexpr (!kSixteenBits<T>) {
    return {_mm256_castsi256_ps(load_bits32(from)), _mm256_castsi256_ps(load_bits32(from + 32))};
  } else if constexpr (kHalfMeta<T>) {
    const auto* const halves = reinterpret_cast<const __m128i*>(from);
    return {_mm256_cvtph_ps(_mm_loadu_si128(halves)), _mm256_cvtph_ps(_mm_loadu_si128(halves + 1))};
  } else {
    const __m256i bits = load_bits32(from);
    const __m256i odd = _mm256_and_si256(bits, _mm256_set1_epi32(static_cast<int>(0xffff0000)));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(bits, 16)), _mm256_castsi256_ps(odd)};
  }
}

template <class T, int kBits>
__m256i codes8(__m256 x, __m256 inverse, __m256 bias) {
  __m256i codes = _mm256_cvtps_epi32(_mm256_fmadd_ps(x, inverse, bias));
  if constexpr (!kSixteenBits<T>) {
    codes = _mm256_max_epi32(codes, _mm256_setzero_si256());
    codes = _mm256_min_epi32(codes, _mm256_set1_epi32(Codes<kBits>::kLargest));
  }
  return codes;
}

// Two registers of codes in 16-bit lanes, in the order of the values. An infinity or NaN, in a
// group that escapes, is INT_MIN before and 0 after.
template <class T>
__m256i joined(__m256i a, __m256i b) {
  if constexpr (kSixteenBits<T> && !kHalfMeta<T>) {
    return _mm256_blend_epi16(a, _mm256_slli_epi32(b, 16), 0xaa);
  } else {
    return _mm256_permute4x64_epi64(_mm256_packus_epi32(a, b), 0xd8);
  }
}

template <class T, int kBits>
__m256i codes16(const uint8_t* from, __m256 inverse, __m256 bias) {
  const Pair x = load16<T>(from);
  return joined<T>(codes8<T, kBits>(x.a, inverse, bias), codes8<T, kBits>(x.b, inverse, bias));
}

inline __m256i bytes_of(__m256i a, __m256i b) {
  return _mm256_permute4x64_epi64(_mm256_packus_epi16(a, b), 0xd8);
}

// kStream: around the caches; the codes are then aligned to 32 bytes.
template <bool kStream>
void store32(uint8_t* to, __m256i x) {
  if constexpr (kStream) {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to), x);
  } else {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), x);
  }
}

template <class T, int kBits, bool kStream>
void put_codes(const uint8_t* from, float inverse, float bias, uint8_t* codes) {
  constexpr size_t kQuarter = kGroup / 4 * sizeof(typename T::Bits);
  const __m256 i = _mm256_set1_ps(inverse);
  const __m256 b = _mm256_set1_ps(bias);
  const __m256i w = codes16<T, kBits>(from, i, b);
  const __m256i x = codes16<T, kBits>(from + kQuarter, i, b);
  const __m256i y = codes16<T, kBits>(from + 2 * kQuarter, i, b);
  const __m256i z = codes16<T, kBits>(from + 3 * kQuarter, i, b);
  if constexpr (kBits == 8) {
    store32<kStream>(codes, bytes_of(w, x));
    store32<kStream>(codes + 32, bytes_of(y, z));
  } else {
    store32<kStream>(codes, bytes_of(_mm256_or_si256(w, _mm256_slli_epi16(y, 4)),
                                     _mm256_or_si256(x, _mm256_slli_epi16(z, 4))));
  }
}

// ---- rows ---------------------------------------------------------------------------------------

// The lines of eight groups, in their order.
struct Block {
  alignas(32) float inverse[kAtOnce];
  alignas(32) float bias[kAtOnce];
};

// One to eight groups, with metadata.
template <class T, int kBits>
int lines_of_block(const uint8_t* from, size_t groups, uint8_t* meta, Block* block) {
  constexpr size_t kBytes = kGroup * sizeof(typename T::Bits);
  Extremes keys;
  for (size_t i = 0; i < kAtOnce; ++i) {
    const uint8_t* const at = from + (i < groups ? i : groups - 1) * kBytes;
    extremes_of_group<T>(at, &keys.low[i], &keys.high[i]);
    for (size_t ahead = 0; ahead < kBytes; ahead += 64)
      _mm_prefetch(at + kAhead + ahead, _MM_HINT_T0);
  }
  const auto keys_at = [](const uint32_t* lanes) {
    return _mm256_load_si256(reinterpret_cast<const __m256i*>(lanes));
  };
  const Lines lines = lines_of<T, kBits>(keys_at(keys.low), keys_at(keys.high));
  _mm256_store_ps(block->inverse, lines.inverse);
  _mm256_store_ps(block->bias, lines.bias);
  if (groups == kAtOnce) {
    store32<false>(meta, lines.meta);
  } else {
    alignas(32) uint8_t all[kAtOnce * kMetaBytes];
    store32<false>(all, lines.meta);
    memcpy(meta, all, groups * kMetaBytes);
  }
  return lines.escaped;
}

template <class T, int kBits, bool kStream>
bool quantise_blocks(const uint8_t* values, size_t groups, uint8_t* codes, uint8_t* meta) {
  constexpr size_t kBytes = kGroup * sizeof(typename T::Bits);
  constexpr size_t kCodeBytes = code_bytes(kBits, kGroup);
  Block two[2];
  size_t now = groups < kAtOnce ? groups : kAtOnce;
  int bad = lines_of_block<T, kBits>(values, now, meta, &two[0]);
  for (size_t turn = 0; now > 0; ++turn) {
    groups -= now;
    meta += now * kMetaBytes;
    const size_t next = groups < kAtOnce ? groups : kAtOnce;
    if (next > 0)
      bad |= lines_of_block<T, kBits>(values + now * kBytes, next, meta, &two[(turn + 1) % 2]);
    const Block& block = two[turn % 2];
    for (size_t i = 0; i < now; ++i)
      put_codes<T, kBits, kStream>(values + i * kBytes, block.inverse[i], block.bias[i],
                                   codes + i * kCodeBytes);
    values += now * kBytes;
    codes += now * kCodeBytes;
    now = next;
  }
  if constexpr (kStream) _mm_sfence();
  return bad != 0;
}

template <class T, int kBits>
bool quantise_row(const uint8_t* values, size_t count, uint8_t* codes, uint8_t* meta, bool stream) {
  const size_t groups = count / kGroup;
  bool escaped = false;
  if (groups > 0)
    escaped = stream && reinterpret_cast<uintptr_t>(codes) % 32 == 0
                  ? quantise_blocks<T, kBits, true>(values, groups, codes, meta)
                  : quantise_blocks<T, kBits, false>(values, groups, codes, meta);
  if (count % kGroup == 0) return escaped;
  return quantise_group<T, kBits>(values + groups * kGroup * sizeof(typename T::Bits),
                                  count % kGroup, codes + groups * code_bytes(kBits, kGroup),
                                  meta + groups * kMetaBytes) ||
         escaped;
}

}  // namespace
}  // namespace blatam
