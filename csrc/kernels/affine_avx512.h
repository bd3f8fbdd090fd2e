// The affine quantiser with AVX-512, over groups of 64 along a row. Internal to kernels_avx512.cc.
//
// The bytes of a group pass through memory in about 37 cycles, so its work must take fewer.
// Extremes are taken on integer keys and reduced for sixteen groups together, by a tree that halves
// the width of each as it joins two; their scales are then computed at once, one group a lane, so
// that one division serves 1,024 values. A value widens to float by a shift or a mask, and the low
// bytes of two registers of codes are picked by one permutation. The chain from the extremes
// through the division to the codes is long, and the processor's window shorter than a block: so
// the scales of the next block are computed before the codes of this one.
#pragma once

#include <immintrin.h>

#include "kernels/affine_loops.h"
#include "kernels/rotation_loops.h"

namespace blatam {
namespace {

constexpr size_t kAhead = 2048;  // bytes; beyond the next block, near enough for the first cache

template <class T>
constexpr bool kSixteenBits = sizeof(typename T::Bits) == 2;

// True for the types whose metadata are fp16.
template <class T>
constexpr bool kHalfMeta = static_cast<uint16_t>(T::Meta::kLargest) == 65504;

// ---- extremes -----------------------------------------------------------------------------------

// Keys are signed integers in the order of the values: bits ^ (sign & 0x7fff...), which is its own
// inverse. An Order takes minimum and maximum of such keys.
struct Order16 {
  static __m512i keys(__m512i bits) {
    // The high half of a product with 1 is the sign; shifts have fewer ports.
    const __m512i sign = _mm512_mulhi_epi16(bits, _mm512_set1_epi16(1));
    return _mm512_ternarylogic_epi64(bits, sign, _mm512_set1_epi16(0x7fff), 0x78);
  }
  static __m512i min(__m512i a, __m512i b) { return _mm512_min_epi16(a, b); }
  static __m512i max(__m512i a, __m512i b) { return _mm512_max_epi16(a, b); }
};

struct Order32 {
  static __m512i keys(__m512i bits) {
    return _mm512_ternarylogic_epi64(bits, _mm512_srai_epi32(bits, 31),
                                     _mm512_set1_epi32(0x7fffffff), 0x78);
  }
  static __m512i min(__m512i a, __m512i b) { return _mm512_min_epi32(a, b); }
  static __m512i max(__m512i a, __m512i b) { return _mm512_max_epi32(a, b); }
};

template <class T>
struct OrderOf {
  using Type = Order32;
};
template <>
struct OrderOf<Bf16> {
  using Type = Order16;
};
template <>
struct OrderOf<Fp16> {
  using Type = Order16;
};
template <class T>
using Order = typename OrderOf<T>::Type;

struct Extremes {
  __m512i low;
  __m512i high;
};

// Joins two registers: each pair of units, from the lower and from the upper halves.
template <class T>
Extremes join(const Extremes& a, const Extremes& b, __m512i (*lower)(__m512i, __m512i),
              __m512i (*upper)(__m512i, __m512i)) {
  return {Order<T>::min(lower(a.low, b.low), upper(a.low, b.low)),
          Order<T>::max(lower(a.high, b.high), upper(a.high, b.high))};
}

// The extremes of one group of 64 values, in all lanes of a register together.
template <class T>
Extremes extremes_of_group(const uint8_t* from) {
  if constexpr (kSixteenBits<T>) {
    const __m512i a = Order16::keys(_mm512_loadu_si512(from));
    const __m512i b = Order16::keys(_mm512_loadu_si512(from + 64));
    return {_mm512_min_epi16(a, b), _mm512_max_epi16(a, b)};
  } else {
    const __m512i a = Order32::keys(_mm512_loadu_si512(from));
    const __m512i b = Order32::keys(_mm512_loadu_si512(from + 64));
    const __m512i c = Order32::keys(_mm512_loadu_si512(from + 128));
    const __m512i d = Order32::keys(_mm512_loadu_si512(from + 192));
    return {_mm512_min_epi32(_mm512_min_epi32(a, b), _mm512_min_epi32(c, d)),
            _mm512_max_epi32(_mm512_max_epi32(a, b), _mm512_max_epi32(c, d))};
  }
}

// Four groups, one in each 128-bit lane.
template <class T>
Extremes quad(const Extremes& a, const Extremes& b, const Extremes& c, const Extremes& d) {
  const auto front = [](__m512i x, __m512i y) { return _mm512_shuffle_i64x2(x, y, 0x44); };
  const auto back = [](__m512i x, __m512i y) { return _mm512_shuffle_i64x2(x, y, 0xee); };
  const auto even = [](__m512i x, __m512i y) { return _mm512_shuffle_i64x2(x, y, 0x88); };
  const auto odd = [](__m512i x, __m512i y) { return _mm512_shuffle_i64x2(x, y, 0xdd); };
  return join<T>(join<T>(a, b, front, back), join<T>(c, d, front, back), even, odd);
}

template <class T>
Extremes quad_at(const uint8_t* from, size_t groups) {
  constexpr size_t kBytes = kGroup * sizeof(typename T::Bits);
  const size_t last = (groups - 1) * kBytes;
  const auto at = [&](size_t i) { return from + (i * kBytes < last ? i * kBytes : last); };
  return quad<T>(extremes_of_group<T>(at(0)), extremes_of_group<T>(at(1)),
                 extremes_of_group<T>(at(2)), extremes_of_group<T>(at(3)));
}

// The halves of each 32-bit lane.
template <class T>
Extremes join_halves(const Extremes& x) {
  if constexpr (kSixteenBits<T>) {
    return {Order<T>::min(x.low, _mm512_rol_epi32(x.low, 16)),
            Order<T>::max(x.high, _mm512_rol_epi32(x.high, 16))};
  } else {
    return x;
  }
}

// A quad with the extremes of its groups in all 32-bit lanes of theirs.
template <class T>
Extremes spread(const Extremes& x) {
  const auto same = [](__m512i a, __m512i) { return a; };
  const auto far = [](__m512i a, __m512i) { return _mm512_shuffle_epi32(a, _MM_PERM_BADC); };
  const auto near = [](__m512i a, __m512i) { return _mm512_shuffle_epi32(a, _MM_PERM_CDAB); };
  const Extremes half = join<T>(x, x, same, far);
  return join_halves<T>(join<T>(half, half, same, near));
}

// Sixteen groups, one in each 32-bit lane: lane 4 i + j has that of quad j, lane i.
template <class T>
Extremes sixteen(const Extremes* quads) {
  const auto low64 = [](__m512i x, __m512i y) { return _mm512_unpacklo_epi64(x, y); };
  const auto high64 = [](__m512i x, __m512i y) { return _mm512_unpackhi_epi64(x, y); };
  const auto even = [](__m512i x, __m512i y) {
    return _mm512_castps_si512(
        _mm512_shuffle_ps(_mm512_castsi512_ps(x), _mm512_castsi512_ps(y), 0x88));
  };
  const auto odd = [](__m512i x, __m512i y) {
    return _mm512_castps_si512(
        _mm512_shuffle_ps(_mm512_castsi512_ps(x), _mm512_castsi512_ps(y), 0xdd));
  };
  return join_halves<T>(join<T>(join<T>(quads[0], quads[1], low64, high64),
                                join<T>(quads[2], quads[3], low64, high64), even, odd));
}

// The values of keys, one in each 32-bit lane.
template <class T>
__m512 values_of_keys(__m512i keys) {
  const __m512i bits = Order<T>::keys(keys);
  if constexpr (!kSixteenBits<T>) return _mm512_castsi512_ps(bits);
  if constexpr (kHalfMeta<T>) return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(bits));
  return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
}

// ---- scale and minimum --------------------------------------------------------------------------

// What affine_of() computes, for a group in each lane.
struct Lines {
  __m512 inverse;
  __m512 bias;
  __m512i meta;  // scale in the low half of a lane, minimum in the high half
  __mmask16 escaped;
};

template <class T, int kBits>
Lines lines_of(const Extremes& extremes) {
  const __m512 low = values_of_keys<T>(extremes.low);
  const __m512 high = values_of_keys<T>(extremes.high);
  __m512i minimum;
  __m512 m;
  if constexpr (kSixteenBits<T>) {
    m = low;
    minimum = _mm512_slli_epi32(Order<T>::keys(extremes.low), 16);
  } else if constexpr (kHalfMeta<T>) {
    const __m256i halves = _mm512_cvtps_ph(low, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    minimum = _mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16);
    m = _mm512_cvtph_ps(halves);
  } else {
    const __m512i bits = _mm512_castps_si512(low);
    const __m512i away = _mm512_srli_epi32(_mm512_srai_epi32(bits, 31), 16);
    minimum = _mm512_and_si512(_mm512_add_epi32(bits, away),
                               _mm512_set1_epi32(static_cast<int>(0xffff0000)));
    m = _mm512_castsi512_ps(minimum);
  }
  const __m512 step = _mm512_mul_ps(_mm512_sub_ps(high, m), _mm512_set1_ps(Codes<kBits>::kInverse));
  __m512i scale;
  __m512 s;
  if constexpr (kHalfMeta<T>) {
    const __m256i halves = _mm512_cvtps_ph(step, _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC);
    scale = _mm512_cvtepu16_epi32(halves);
    s = _mm512_cvtph_ps(halves);
  } else {
    scale = _mm512_srli_epi32(
        _mm512_add_epi32(_mm512_castps_si512(step), _mm512_set1_epi32(0xffff)), 16);
    s = _mm512_castsi512_ps(_mm512_slli_epi32(scale, 16));
  }
  const __mmask16 uneven = _mm512_cmp_ps_mask(s, _mm512_setzero_ps(), _CMP_GT_OQ);
  const __m512 inverse = _mm512_maskz_div_ps(uneven, _mm512_set1_ps(1.0f), s);
  const __m512 end =
      _mm512_fmadd_ps(_mm512_set1_ps(static_cast<float>(Codes<kBits>::kLargest)), s, m);
  // What narrows to infinity, half a step beyond the greatest number, and all beyond it. A group
  // with an infinity or a NaN ends there too: its step is one or the other.
  const int beyond = !kSixteenBits<T> ? 0x7f800000 : kHalfMeta<T> ? 0x477ff000 : 0x7f7f8000;
  const __m512i reach = _mm512_and_si512(_mm512_castps_si512(end), _mm512_set1_epi32(0x7fffffff));
  __mmask16 bad = _mm512_cmpge_epu32_mask(reach, _mm512_set1_epi32(beyond));
  // The inverse of an fp16 number is finite. The other checks: a NaN of float32 may have so many
  // ones that rounding outwards, by adding to its bits, makes it a number.
  if constexpr (!kHalfMeta<T>) bad = _kor_mask16(bad, _mm512_fpclass_ps_mask(inverse, 0x99));
  if constexpr (!kSixteenBits<T>) {
    bad = _kor_mask16(bad, _mm512_fpclass_ps_mask(step, 0x99));
    bad = _kor_mask16(bad, _mm512_fpclass_ps_mask(low, 0x99));
  }
  const __mmask16 good = _knot_mask16(bad);
  const __m512 bias = _mm512_mul_ps(_mm512_sub_ps(_mm512_setzero_ps(), m), inverse);
  return {_mm512_maskz_mov_ps(good, inverse), _mm512_maskz_mov_ps(good, bias),
          _mm512_mask_or_epi32(_mm512_set1_epi32(Bf16::kNan), good, minimum, scale), bad};
}

// ---- codes --------------------------------------------------------------------------------------

struct Pair {
  __m512 a;
  __m512 b;
};

// 32 values as floats: of bfloat16 the even ones, then the odd ones; else in order.
template <class T>
Pair widen32(__m512i bits) {
  static_assert(kSixteenBits<T>);
  if constexpr (kHalfMeta<T>) {
    return {_mm512_cvtph_ps(_mm512_castsi512_si256(bits)),
            _mm512_cvtph_ps(_mm512_extracti64x4_epi64(bits, 1))};
  } else {
    const __m512i odd = _mm512_and_si512(bits, _mm512_set1_epi32(static_cast<int>(0xffff0000)));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(bits, 16)), _mm512_castsi512_ps(odd)};
  }
}

template <class T>
Pair load32(const uint8_t* from) {
  if constexpr (kSixteenBits<T>) {
    return widen32<T>(_mm512_loadu_si512(from));
  } else {
    return {_mm512_loadu_ps(from), _mm512_loadu_ps(from + 64)};
  }
}

// The low bytes of two registers of codes, in the order of the values.
template <class T>
__m256i low_bytes(__m512i a, __m512i b) {
  alignas(32) static constexpr uint8_t kInOrder[32] = {
      0,  4,  8,  12, 16, 20, 24, 28, 32, 36,  40,  44,  48,  52,  56,  60,
      64, 68, 72, 76, 80, 84, 88, 92, 96, 100, 104, 108, 112, 116, 120, 124};
  alignas(32) static constexpr uint8_t kInTurn[32] = {
      0,  64, 4,  68,  8,  72,  12, 76,  16, 80,  20, 84,  24, 88,  28, 92,
      32, 96, 36, 100, 40, 104, 44, 108, 48, 112, 52, 116, 56, 120, 60, 124};
  const uint8_t* const order = kSixteenBits<T> && !kHalfMeta<T> ? kInTurn : kInOrder;
  const __m512i index =
      _mm512_castsi256_si512(_mm256_load_si256(reinterpret_cast<const __m256i*>(order)));
  return _mm512_castsi512_si256(_mm512_permutex2var_epi8(a, index, b));
}

// The codes of 16 floats. An infinity or NaN, in a group that escapes, gives INT_MIN, whose low
// byte is the zero it should be.
template <class T, int kBits>
__m512i codes16(__m512 x, __m512 inverse, __m512 bias) {
  __m512i codes = _mm512_cvtps_epi32(_mm512_fmadd_ps(x, inverse, bias));
  if constexpr (!kSixteenBits<T>) {
    codes = _mm512_max_epi32(codes, _mm512_setzero_si512());
    codes = _mm512_min_epi32(codes, _mm512_set1_epi32(Codes<kBits>::kLargest));
  }
  return codes;
}

// The codes of the two halves of a group: at four bits, both in `first`.
struct GroupCodes {
  __m256i first;
  __m256i second;
};

template <class T, int kBits>
GroupCodes codes_of(const Pair& x, const Pair& y, __m512 inverse, __m512 bias) {
  const __m512i a = codes16<T, kBits>(x.a, inverse, bias);
  const __m512i b = codes16<T, kBits>(x.b, inverse, bias);
  const __m512i c = codes16<T, kBits>(y.a, inverse, bias);
  const __m512i d = codes16<T, kBits>(y.b, inverse, bias);
  if constexpr (kBits == 8) return {low_bytes<T>(a, b), low_bytes<T>(c, d)};
  const __m256i both = low_bytes<T>(_mm512_or_si512(a, _mm512_slli_epi32(c, 4)),
                                    _mm512_or_si512(b, _mm512_slli_epi32(d, 4)));
  return {both, both};
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
  constexpr size_t kHalf = kGroup / 2 * sizeof(typename T::Bits);
  const GroupCodes found = codes_of<T, kBits>(load32<T>(from), load32<T>(from + kHalf),
                                              _mm512_set1_ps(inverse), _mm512_set1_ps(bias));
  store32<kStream>(codes, found.first);
  if constexpr (kBits == 8) store32<kStream>(codes + 32, found.second);
}

// ---- blocks of groups ---------------------------------------------------------------------------

// The lines of up to 16 groups, in their order.
struct Block {
  alignas(64) float inverse[16];
  alignas(64) float bias[16];
};

template <class T, int kBits>
__mmask16 lines_of_sixteen(const uint8_t* from, uint8_t* meta, Block* block) {
  constexpr size_t kBytes = kGroup * sizeof(typename T::Bits);
  Extremes quads[4];
  for (size_t i = 0; i < 4; ++i) {
    quads[i] = quad_at<T>(from + 4 * i * kBytes, 4);
    for (size_t ahead = 0; ahead < 4 * kBytes; ahead += 64)
      _mm_prefetch(from + kAhead + 4 * i * kBytes + ahead, _MM_HINT_T0);
  }
  const Lines lines = lines_of<T, kBits>(sixteen<T>(quads));
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  _mm512_store_ps(block->inverse, _mm512_permutexvar_ps(order, lines.inverse));
  _mm512_store_ps(block->bias, _mm512_permutexvar_ps(order, lines.bias));
  _mm512_storeu_si512(meta, _mm512_permutexvar_epi32(order, lines.meta));
  return lines.escaped;
}

template <class T, int kBits, bool kStream>
void codes_of_sixteen(const uint8_t* from, const Block& block, uint8_t* codes) {
  constexpr size_t kBytes = kGroup * sizeof(typename T::Bits);
  for (size_t i = 0; i < 16; ++i)
    put_codes<T, kBits, kStream>(from + i * kBytes, block.inverse[i], block.bias[i],
                                 codes + i * code_bytes(kBits, kGroup));
}

// Groups in blocks of sixteen; returns how many groups are done.
template <class T, int kBits, bool kStream>
size_t quantise_blocks(const uint8_t* values, size_t groups, uint8_t* codes, uint8_t* meta,
                       bool* escaped) {
  constexpr size_t kBytes = 16 * kGroup * sizeof(typename T::Bits);
  const size_t blocks = groups / 16;
  if (blocks == 0) return 0;
  Block two[2];
  __mmask16 bad = lines_of_sixteen<T, kBits>(values, meta, &two[0]);
  for (size_t i = 0; i < blocks; ++i) {
    if (i + 1 < blocks)
      bad = _kor_mask16(bad, lines_of_sixteen<T, kBits>(values + kBytes, meta + 16 * kMetaBytes,
                                                        &two[(i + 1) % 2]));
    codes_of_sixteen<T, kBits, kStream>(values, two[i % 2], codes);
    values += kBytes;
    codes += 16 * code_bytes(kBits, kGroup);
    meta += 16 * kMetaBytes;
  }
  if constexpr (kStream) _mm_sfence();
  *escaped |= bad != 0;
  return 16 * blocks;
}

// One to four groups.
template <class T, int kBits>
bool quantise_few(const uint8_t* values, size_t groups, uint8_t* codes, uint8_t* meta) {
  constexpr size_t kBytes = kGroup * sizeof(typename T::Bits);
  const Lines lines = lines_of<T, kBits>(spread<T>(quad_at<T>(values, groups)));
  Block block;
  _mm512_store_ps(block.inverse, lines.inverse);
  _mm512_store_ps(block.bias, lines.bias);
  for (size_t i = 0; i < groups; ++i)
    put_codes<T, kBits, false>(values + i * kBytes, block.inverse[4 * i], block.bias[4 * i],
                               codes + i * code_bytes(kBits, kGroup));
  const auto filled = static_cast<__mmask8>((1u << groups) - 1);
  _mm_mask_storeu_epi32(meta, filled,
                        _mm512_castsi512_si128(_mm512_maskz_compress_epi32(0x1111, lines.meta)));
  return lines.escaped != 0;
}

// A group of fewer than 64 values of a 16-bit type: its halves, and masks of what is there.
struct Halves {
  size_t low;   // values in the first half
  size_t high;  // and in the second
  __mmask32 low_mask() const { return low == 32 ? ~0u : (1u << low) - 1; }
  __mmask32 high_mask() const { return (1u << high) - 1; }
};

template <class T, int kBits>
bool quantise_short(const uint8_t* values, size_t count, uint8_t* codes, uint8_t* meta) {
  const Halves halves = {(count + 1) / 2, count / 2};
  const __m512i first = _mm512_set1_epi16(static_cast<int16_t>(load_bits<uint16_t>(values)));
  const __m512i x = _mm512_mask_loadu_epi16(first, halves.low_mask(), values);
  const __m512i y = _mm512_mask_loadu_epi16(first, halves.high_mask(), values + 2 * halves.low);
  const __m512i a = Order16::keys(x);
  const __m512i b = Order16::keys(y);
  const Extremes all = {_mm512_min_epi16(a, b), _mm512_max_epi16(a, b)};
  const Lines lines = lines_of<T, kBits>(spread<T>(quad<T>(all, all, all, all)));
  const Pair low = widen32<T>(x);
  Pair high = widen32<T>(y);
  GroupCodes found = codes_of<T, kBits>(low, high, lines.inverse, lines.bias);
  if constexpr (kBits == 8) {
    _mm256_mask_storeu_epi8(codes + halves.low, halves.high_mask(), found.second);
  } else if (halves.high < halves.low) {
    // The last byte has no value in its upper half.
    const auto single = static_cast<__mmask32>(1u << halves.high);
    const __m256i lower = _mm256_and_si256(found.first, _mm256_set1_epi8(15));
    found.first = _mm256_mask_mov_epi8(found.first, single, lower);
  }
  _mm256_mask_storeu_epi8(codes, halves.low_mask(), found.first);
  store_bits(meta, static_cast<uint32_t>(_mm_cvtsi128_si32(_mm512_castsi512_si128(lines.meta))));
  return lines.escaped != 0;
}

template <class T, int kBits>
bool quantise_row(const uint8_t* values, size_t count, uint8_t* codes, uint8_t* meta, bool stream) {
  constexpr size_t kValueBytes = kGroup * sizeof(typename T::Bits);
  constexpr size_t kCodeBytes = code_bytes(kBits, kGroup);
  const size_t groups = count / kGroup;
  bool escaped = false;
  size_t done = stream && reinterpret_cast<uintptr_t>(codes) % 32 == 0
                    ? quantise_blocks<T, kBits, true>(values, groups, codes, meta, &escaped)
                    : quantise_blocks<T, kBits, false>(values, groups, codes, meta, &escaped);
  while (done < groups) {
    const size_t few = groups - done < 4 ? groups - done : 4;
    escaped |= quantise_few<T, kBits>(values + done * kValueBytes, few, codes + done * kCodeBytes,
                                      meta + done * kMetaBytes);
    done += few;
  }
  if (count % kGroup == 0) return escaped;
  values += done * kValueBytes;
  codes += done * kCodeBytes;
  meta += done * kMetaBytes;
  if constexpr (kSixteenBits<T>) {
    return quantise_short<T, kBits>(values, count % kGroup, codes, meta) || escaped;
  } else {
    return quantise_group<T, kBits>(values, count % kGroup, codes, meta) || escaped;
  }
}

}  // namespace
}  // namespace blatam
