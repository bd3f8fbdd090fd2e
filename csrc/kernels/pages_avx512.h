// The affine quantiser over the channels of a page with AVX-512. A register holds the same token of
// 16 channels (32 of a 16-bit type), so that extremes need no reduction. Internal to
// kernels_avx512.cc.
//
// Channels are taken 128 at a time, all 64 tokens of them: 16 KiB of bfloat16 stay in the first
// cache between the pass that finds the extremes and the one that writes codes. Tokens lie far
// apart, which the hardware does not foresee, so the first pass asks for the next stretch itself.
#pragma once

#include <immintrin.h>

#include "kernels/affine_avx512.h"
#include "kernels/affine_decode_avx512.h"

namespace blatam {
namespace {

// Channels that are taken together, as pairs of registers of floats.
constexpr size_t kPairs = 4;
constexpr size_t kStretch = 32 * kPairs;

// Masks of the channels that a pair holds: of its 32 values, and of its two registers as load32()
// would fill them in order.
struct Filled {
  size_t channels;
  // Masked stores are slow on some processors, so whole pairs go without.
  bool whole() const { return channels >= 32; }
  __mmask32 values() const { return channels >= 32 ? ~0u : (1u << channels) - 1; }
};

// Part of a token's channels; those that are not there are zero.
template <class T>
Pair load_part(const uint8_t* from, const Filled& filled) {
  if (filled.whole()) return load32<T>(from);
  if constexpr (kSixteenBits<T>) {
    return widen32<T>(_mm512_maskz_loadu_epi16(filled.values(), from));
  } else {
    const __mmask32 there = filled.values();
    return {_mm512_maskz_loadu_ps(static_cast<__mmask16>(there), from),
            _mm512_maskz_loadu_ps(static_cast<__mmask16>(there >> 16), from + 64)};
  }
}

// The extremes of 32 channels by their keys.
template <class T>
struct ChannelKeys {
  __m512i low[kSixteenBits<T> ? 1 : 2];
  __m512i high[kSixteenBits<T> ? 1 : 2];

  void start() {
    for (__m512i& x : low)
      x = kSixteenBits<T> ? _mm512_set1_epi16(0x7fff) : _mm512_set1_epi32(0x7fffffff);
    for (__m512i& x : high)
      x = kSixteenBits<T> ? _mm512_set1_epi16(-0x8000) : _mm512_set1_epi32(-0x7fffffff - 1);
  }
  void add(const uint8_t* from, const Filled& filled) {
    if constexpr (kSixteenBits<T>) {
      const __m512i bits = filled.whole() ? _mm512_loadu_si512(from)
                                          : _mm512_maskz_loadu_epi16(filled.values(), from);
      const __m512i keys = Order16::keys(bits);
      low[0] = _mm512_min_epi16(low[0], keys);
      high[0] = _mm512_max_epi16(high[0], keys);
    } else {
      const __mmask32 there = filled.values();
      for (size_t i = 0; i < 2; ++i) {
        const auto mask = static_cast<__mmask16>(there >> (16 * i));
        const __m512i keys = Order32::keys(_mm512_maskz_loadu_epi32(mask, from + 64 * i));
        low[i] = _mm512_min_epi32(low[i], keys);
        high[i] = _mm512_max_epi32(high[i], keys);
      }
    }
  }
  // Of the channels in the registers that load_part() would fill: i is 0 or 1. As lines_of() takes
  // them.
  Extremes part(size_t i) const {
    if constexpr (!kSixteenBits<T>) {
      return {low[i], high[i]};
    } else if constexpr (kHalfMeta<T>) {
      const auto half = [&](__m512i x) {
        return _mm512_cvtepi16_epi32(i == 0 ? _mm512_castsi512_si256(x)
                                            : _mm512_extracti64x4_epi64(x, 1));
      };
      return {half(low[0]), half(high[0])};
    } else {
      const auto turn = [&](__m512i x) { return i == 0 ? _mm512_slli_epi32(x, 16) : x; };
      const auto down = [](__m512i x) { return _mm512_srai_epi32(x, 16); };
      return {down(turn(low[0])), down(turn(high[0]))};
    }
  }
};

struct PairLines {
  __m512 inverse[2];
  __m512 bias[2];
};

// 32 metadata halves of a pair, in the order of the channels.
template <class T>
__m512i in_order16(__m512i a, __m512i b) {
  if constexpr (kSixteenBits<T> && !kHalfMeta<T>) {
    return _mm512_mask_blend_epi16(0xaaaaaaaau, a, _mm512_slli_epi32(b, 16));
  } else {
    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi32_epi16(a)),
                              _mm512_cvtepi32_epi16(b), 1);
  }
}

template <class T, int kBits>
bool lines_of_channels(const ChannelKeys<T>& keys, const Filled& filled, uint8_t* scales,
                       uint8_t* minima, PairLines* out) {
  const Lines a = lines_of<T, kBits>(keys.part(0));
  const Lines b = lines_of<T, kBits>(keys.part(1));
  out->inverse[0] = a.inverse;
  out->inverse[1] = b.inverse;
  out->bias[0] = a.bias;
  out->bias[1] = b.bias;
  _mm512_mask_storeu_epi16(scales, filled.values(), in_order16<T>(a.meta, b.meta));
  _mm512_mask_storeu_epi16(
      minima, filled.values(),
      in_order16<T>(_mm512_srli_epi32(a.meta, 16), _mm512_srli_epi32(b.meta, 16)));
  return (a.escaped | b.escaped) != 0;
}

template <class T, int kBits>
__m256i channel_codes(const uint8_t* from, ptrdiff_t token_bytes, const Filled& filled,
                      const PairLines& lines) {
  const auto codes = [&](const uint8_t* at, __m512i* a, __m512i* b) {
    const Pair x = load_part<T>(at, filled);
    *a = codes16<T, kBits>(x.a, lines.inverse[0], lines.bias[0]);
    *b = codes16<T, kBits>(x.b, lines.inverse[1], lines.bias[1]);
  };
  __m512i a;
  __m512i b;
  codes(from, &a, &b);
  if constexpr (kBits == 4) {
    __m512i c;
    __m512i d;
    codes(from + static_cast<ptrdiff_t>(kPage / 2) * token_bytes, &c, &d);
    a = _mm512_or_si512(a, _mm512_slli_epi32(c, 4));
    b = _mm512_or_si512(b, _mm512_slli_epi32(d, 4));
  }
  return low_bytes<T>(a, b);
}

// Up to 128 channels, of which the first is `first` of `channels`.
template <class T, int kBits, bool kStream>
bool quantise_stretch(const uint8_t* values, ptrdiff_t token_bytes, size_t first, size_t channels,
                      uint8_t* codes, uint8_t* meta) {
  constexpr size_t kSize = sizeof(typename T::Bits);
  constexpr size_t kRows = kBits == 8 ? kPage : kPage / 2;
  const size_t left = channels - first;
  const size_t pairs = left >= kStretch ? kPairs : (left + 31) / 32;
  const size_t next = (left >= kStretch ? kStretch : left) * kSize;
  values += first * kSize;
  Filled filled[kPairs];
  ChannelKeys<T> keys[kPairs];
  PairLines lines[kPairs];
  for (size_t i = 0; i < kPairs; ++i) {
    filled[i].channels = left > 32 * i ? left - 32 * i : 0;
    keys[i].start();
  }
  const uint8_t* from = values;
  for (size_t token = 0; token < kPage; ++token, from += token_bytes) {
    for (size_t i = 0; i < pairs; ++i) keys[i].add(from + 32 * i * kSize, filled[i]);
    for (size_t ahead = 0; ahead < next; ahead += 64)
      _mm_prefetch(from + next + ahead, _MM_HINT_T1);
  }
  bool escaped = false;
  for (size_t i = 0; i < pairs; ++i) {
    uint8_t* const scales = meta + 2 * (first + 32 * i);
    escaped |=
        lines_of_channels<T, kBits>(keys[i], filled[i], scales, scales + 2 * channels, &lines[i]);
  }
  from = values;
  for (size_t row = 0; row < kRows; ++row, from += token_bytes) {
    uint8_t* const to = codes + row * channels + first;
    for (size_t i = 0; i < pairs; ++i) {
      const __m256i found =
          channel_codes<T, kBits>(from + 32 * i * kSize, token_bytes, filled[i], lines[i]);
      if (filled[i].whole()) {
        store32<kStream>(to + 32 * i, found);
      } else {
        _mm256_mask_storeu_epi8(to + 32 * i, filled[i].values(), found);
      }
    }
  }
  return escaped;
}

template <class T, int kBits>
bool quantise_page_wide(const uint8_t* values, ptrdiff_t token_bytes, size_t channels,
                        uint8_t* codes, uint8_t* meta, bool stream) {
  const bool around = stream && reinterpret_cast<uintptr_t>(codes) % 32 == 0 && channels % 32 == 0;
  bool escaped = false;
  for (size_t first = 0; first < channels; first += kStretch)
    escaped |=
        around
            ? quantise_stretch<T, kBits, true>(values, token_bytes, first, channels, codes, meta)
            : quantise_stretch<T, kBits, false>(values, token_bytes, first, channels, codes, meta);
  if (around) _mm_sfence();
  return escaped;
}

// ---- back ---------------------------------------------------------------------------------------

// Scale and minimum of a pair, as floats that lie as load_part() would leave them.
struct PairMeta {
  Pair scale;
  Pair minimum;
};

template <class T>
Pair load_meta(const uint8_t* from, const Filled& filled) {
  const __m512i bits = _mm512_maskz_loadu_epi16(filled.values(), from);
  if constexpr (kSixteenBits<T>) {
    return widen32<T>(bits);
  } else {  // bfloat16, in order
    const auto widened = [](__m256i half) {
      return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
    };
    return {widened(_mm512_castsi512_si256(bits)), widened(_mm512_extracti64x4_epi64(bits, 1))};
  }
}

// The values of 32 codes, a 16-bit lane each, written to a token's channels.
template <class T, Store kStore>
void put_channels(__m512i codes, const PairMeta& meta, const Filled& filled, uint8_t* to) {
  const auto value = [&](__m512i lanes, __m512 scale, __m512 minimum) {
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(lanes), scale, minimum);
  };
  if constexpr (kSixteenBits<T> && !kHalfMeta<T>) {
    const __m512i even = _mm512_and_si512(codes, _mm512_set1_epi32(0xffff));
    const __m512i low = rounded_bf16(value(even, meta.scale.a, meta.minimum.a));
    const __m512i high =
        rounded_bf16(value(_mm512_srli_epi32(codes, 16), meta.scale.b, meta.minimum.b));
    const __m512i both = _mm512_mask_blend_epi16(0xaaaaaaaau, _mm512_srli_epi32(low, 16), high);
    if (filled.whole()) {
      store64<kStore>(to, both);
    } else {
      _mm512_mask_storeu_epi16(to, filled.values(), both);
    }
  } else {
    const __m512 low =
        value(_mm512_cvtepu16_epi32(_mm512_castsi512_si256(codes)), meta.scale.a, meta.minimum.a);
    const __m512 high = value(_mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(codes, 1)),
                              meta.scale.b, meta.minimum.b);
    if constexpr (kHalfMeta<T>) {
      const __m512i both =
          _mm512_inserti64x4(_mm512_castsi256_si512(narrow16<T>(low)), narrow16<T>(high), 1);
      if (filled.whole()) {
        store64<kStore>(to, both);
      } else {
        _mm512_mask_storeu_epi16(to, filled.values(), both);
      }
    } else if (filled.whole()) {
      store64<kStore>(to, _mm512_castps_si512(low));
      store64<kStore>(to + 64, _mm512_castps_si512(high));
    } else {
      const __mmask32 there = filled.values();
      _mm512_mask_storeu_ps(to, static_cast<__mmask16>(there), low);
      _mm512_mask_storeu_ps(to + 64, static_cast<__mmask16>(there >> 16), high);
    }
  }
}

template <class T, int kBits, Store kStore>
void dequantise_stretch(const uint8_t* codes, const uint8_t* meta, ptrdiff_t token_bytes,
                        size_t first, size_t channels, uint8_t* values) {
  constexpr size_t kSize = sizeof(typename T::Bits);
  constexpr size_t kRows = kBits == 8 ? kPage : kPage / 2;
  const size_t left = channels - first;
  const size_t pairs = left >= kStretch ? kPairs : (left + 31) / 32;
  Filled filled[kPairs];
  PairMeta lines[kPairs];
  for (size_t i = 0; i < pairs; ++i) {
    filled[i].channels = left - 32 * i;
    const uint8_t* const scales = meta + 2 * (first + 32 * i);
    lines[i] = {load_meta<T>(scales, filled[i]), load_meta<T>(scales + 2 * channels, filled[i])};
  }
  for (size_t row = 0; row < kRows; ++row) {
    const uint8_t* const from = codes + row * channels + first;
    uint8_t* const to = values + static_cast<ptrdiff_t>(row) * token_bytes + first * kSize;
    _mm_prefetch(from + kAhead, _MM_HINT_T0);
    for (size_t i = 0; i < pairs; ++i) {
      const __m512i lanes = _mm512_cvtepu8_epi16(
          filled[i].whole() ? load_codes32(from + 32 * i)
                            : _mm256_maskz_loadu_epi8(filled[i].values(), from + 32 * i));
      uint8_t* const at = to + 32 * i * kSize;
      if constexpr (kBits == 8) {
        put_channels<T, kStore>(lanes, lines[i], filled[i], at);
      } else {
        put_channels<T, kStore>(_mm512_and_si512(lanes, _mm512_set1_epi16(15)), lines[i], filled[i],
                                at);
        put_channels<T, kStore>(_mm512_srli_epi16(lanes, 4), lines[i], filled[i],
                                at + static_cast<ptrdiff_t>(kRows) * token_bytes);
      }
    }
  }
}

template <class T, int kBits, Store kStore>
void dequantise_page_by(const uint8_t* codes, const uint8_t* meta, ptrdiff_t token_bytes,
                        size_t channels, uint8_t* values) {
  for (size_t first = 0; first < channels; first += kStretch)
    dequantise_stretch<T, kBits, kStore>(codes, meta, token_bytes, first, channels, values);
  if constexpr (kStore != Store::usual) _mm_sfence();
}

template <class T, int kBits>
void dequantise_page_wide(const uint8_t* codes, const uint8_t* meta, ptrdiff_t token_bytes,
                          size_t channels, uint8_t* values, bool stream) {
  switch (store_for(stream, values, static_cast<size_t>(token_bytes))) {
    case Store::usual:
      return dequantise_page_by<T, kBits, Store::usual>(codes, meta, token_bytes, channels, values);
    case Store::stream16:
      return dequantise_page_by<T, kBits, Store::stream16>(codes, meta, token_bytes, channels,
                                                           values);
    case Store::stream64:
      return dequantise_page_by<T, kBits, Store::stream64>(codes, meta, token_bytes, channels,
                                                           values);
  }
}

}  // namespace
}  // namespace blatam
