// The affine quantiser over the channels of a page with AVX2: pages_avx512.h with half of the
// width, sixteen channels at a time; what is left of them goes by the loops. Internal to
// kernels_avx2.cc.
#pragma once

#include <immintrin.h>

#include "kernels/affine_avx2.h"
#include "kernels/affine_decode_avx2.h"

namespace blatam {
namespace {

constexpr size_t kChannels = 16;  // that are taken together

// Keys of one token's channels, or their extremes: those that load16() would put into its first
// register, then those of the second, as lines_of() takes them.
struct ChannelKeys {
  __m256i a;
  __m256i b;
};

template <class T>
ChannelKeys channel_keys(const uint8_t* from) {
  if constexpr (!kSixteenBits<T>) {
    return {keys32(load_bits32(from)), keys32(load_bits32(from + 32))};
  } else {
    const __m256i keys = keys16(load_bits32(from));
    if constexpr (kHalfMeta<T>) {
      return {_mm256_cvtepu16_epi32(_mm256_castsi256_si128(keys)),
              _mm256_cvtepu16_epi32(_mm256_extracti128_si256(keys, 1))};
    } else {
      return {_mm256_and_si256(keys, _mm256_set1_epi32(0xffff)), _mm256_srli_epi32(keys, 16)};
    }
  }
}

// Keys of 16 bits are below 2^16 here, so that signed comparisons of 32 bits order all of them.
inline ChannelKeys least(const ChannelKeys& x, const ChannelKeys& y) {
  return {_mm256_min_epi32(x.a, y.a), _mm256_min_epi32(x.b, y.b)};
}
inline ChannelKeys greatest(const ChannelKeys& x, const ChannelKeys& y) {
  return {_mm256_max_epi32(x.a, y.a), _mm256_max_epi32(x.b, y.b)};
}

template <class T, int kBits>
bool quantise_sixteen(const uint8_t* values, ptrdiff_t token_bytes, size_t channels, uint8_t* codes,
                      uint8_t* scales) {
  constexpr size_t kRows = kBits == 8 ? kPage : kPage / 2;
  ChannelKeys low = channel_keys<T>(values);
  ChannelKeys high = low;
  for (ptrdiff_t token = 1; token < static_cast<ptrdiff_t>(kPage); ++token) {
    const ChannelKeys keys = channel_keys<T>(values + token * token_bytes);
    low = least(low, keys);
    high = greatest(high, keys);
  }
  const Lines a = lines_of<T, kBits>(low.a, high.a);
  const Lines b = lines_of<T, kBits>(low.b, high.b);
  const __m256i lower = _mm256_set1_epi32(0xffff);
  store32<false>(scales,
                 joined<T>(_mm256_and_si256(a.meta, lower), _mm256_and_si256(b.meta, lower)));
  store32<false>(scales + 2 * channels,
                 joined<T>(_mm256_srli_epi32(a.meta, 16), _mm256_srli_epi32(b.meta, 16)));
  const auto codes_at = [&](size_t token) {
    const Pair x = load16<T>(values + static_cast<ptrdiff_t>(token) * token_bytes);
    return joined<T>(codes8<T, kBits>(x.a, a.inverse, a.bias),
                     codes8<T, kBits>(x.b, b.inverse, b.bias));
  };
  for (size_t row = 0; row < kRows; ++row) {
    __m256i found = codes_at(row);
    if constexpr (kBits == 4)
      found = _mm256_or_si256(found, _mm256_slli_epi16(codes_at(row + kRows), 4));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + row * channels),
                     _mm256_castsi256_si128(bytes_of(found, found)));
  }
  return (a.escaped | b.escaped) != 0;
}

template <class T, int kBits>
bool quantise_page_wide(const uint8_t* values, ptrdiff_t token_bytes, size_t channels,
                        uint8_t* codes, uint8_t* meta, bool /*stream*/) {
  bool escaped = false;
  size_t first = 0;
  for (; first + kChannels <= channels; first += kChannels)
    escaped |= quantise_sixteen<T, kBits>(values + first * sizeof(typename T::Bits), token_bytes,
                                          channels, codes + first, meta + 2 * first);
  return quantise_channels<T, kBits>(values, token_bytes, first, channels, codes, meta) || escaped;
}

// ---- back ---------------------------------------------------------------------------------------

struct PairMeta {
  Pair scale;
  Pair minimum;
};

// 16 metadata patterns in order.
template <class T>
Pair load_meta(const uint8_t* from) {
  const __m256i bits = load_bits32(from);
  return {widen_lanes<typename T::Meta>(_mm256_cvtepu16_epi32(_mm256_castsi256_si128(bits))),
          widen_lanes<typename T::Meta>(_mm256_cvtepu16_epi32(_mm256_extracti128_si256(bits, 1)))};
}

template <class T>
void put_channels(__m128i codes, const PairMeta& meta, uint8_t* to) {
  const auto value = [](__m128i bytes, __m256 scale, __m256 minimum) {
    return _mm256_fmadd_ps(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)), scale, minimum);
  };
  const __m256 a = value(codes, meta.scale.a, meta.minimum.a);
  const __m256 b = value(_mm_srli_si128(codes, 8), meta.scale.b, meta.minimum.b);
  if constexpr (kSixteenBits<T>) {
    store32<false>(to, narrow16<T>(a, b));
  } else {
    store32<false>(to, _mm256_castps_si256(a));
    store32<false>(to + 32, _mm256_castps_si256(b));
  }
}

template <class T, int kBits>
void dequantise_page_wide(const uint8_t* codes, const uint8_t* meta, ptrdiff_t token_bytes,
                          size_t channels, uint8_t* values, bool /*stream*/) {
  constexpr size_t kRows = kBits == 8 ? kPage : kPage / 2;
  const size_t whole = channels / kChannels * kChannels;
  for (size_t first = 0; first < whole; first += kChannels) {
    const uint8_t* const scales = meta + 2 * first;
    const PairMeta line = {load_meta<T>(scales), load_meta<T>(scales + 2 * channels)};
    uint8_t* to = values + first * sizeof(typename T::Bits);
    for (size_t row = 0; row < kRows; ++row, to += token_bytes) {
      const __m128i both =
          _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + row * channels + first));
      if constexpr (kBits == 8) {
        put_channels<T>(both, line, to);
      } else {
        const __m128i fifteen = _mm_set1_epi8(15);
        put_channels<T>(_mm_and_si128(both, fifteen), line, to);
        put_channels<T>(_mm_and_si128(_mm_srli_epi16(both, 4), fifteen), line,
                        to + static_cast<ptrdiff_t>(kRows) * token_bytes);
      }
    }
  }
  dequantise_channels<T, kBits>(codes, meta, token_bytes, whole, channels, values);
}

}  // namespace
}  // namespace blatam
