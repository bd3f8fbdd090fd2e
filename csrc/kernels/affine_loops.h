// The affine kernels as plain loops: the reference that every instruction set is compared with, and
// what its files fall back on for short groups. Internal to the file that includes it.
#pragma once

#include "kernels/affine.h"
#include "kernels/kernels.h"

namespace blatam {
namespace {

// The extremes of `count` values that lie `stride` bytes apart.
template <class T>
void extremes_of(const uint8_t* values, ptrdiff_t stride, size_t count, float* lowest,
                 float* highest) {
  uint32_t low = 0xffffffffu;
  uint32_t high = 0;
  for (size_t i = 0; i < count; ++i, values += stride) {
    const uint32_t key = key_of(bits_of(T::widen(load_bits<typename T::Bits>(values))));
    low = key < low ? key : low;
    high = key > high ? key : high;
  }
  *lowest = float_of(bits_of_key(low));
  *highest = float_of(bits_of_key(high));
}

template <class T, int kBits>
uint8_t code_at(const uint8_t* value, const Affine& group) {
  if (group.scale == T::Meta::kNan) return 0;
  return code_of<kBits>(T::widen(load_bits<typename T::Bits>(value)), group);
}

// One group of 1 to 64 values. True if it escapes.
template <class T, int kBits>
bool quantise_group(const uint8_t* values, size_t count, uint8_t* codes, uint8_t* meta) {
  constexpr size_t kSize = sizeof(typename T::Bits);
  float lowest;
  float highest;
  extremes_of<T>(values, kSize, count, &lowest, &highest);
  const Affine group = affine_of<T, kBits>(lowest, highest);
  if constexpr (kBits == 8) {
    for (size_t i = 0; i < count; ++i) codes[i] = code_at<T, 8>(values + i * kSize, group);
  } else {
    const size_t half = (count + 1) / 2;
    for (size_t i = 0; i < half; ++i) {
      const uint8_t low = code_at<T, 4>(values + i * kSize, group);
      const uint8_t high =
          i + half < count ? code_at<T, 4>(values + (i + half) * kSize, group) : uint8_t{0};
      codes[i] = static_cast<uint8_t>(low | high << 4);
    }
  }
  store_bits(meta, group.scale);
  store_bits(meta + 2, group.minimum);
  return group.scale == T::Meta::kNan;
}

template <class T>
void put_value(uint8_t* to, uint8_t code, uint16_t scale, uint16_t minimum) {
  store_bits(to, T::narrow(value_of<typename T::Meta>(code, scale, minimum)));
}

template <class T, int kBits>
void dequantise_group(const uint8_t* codes, const uint8_t* meta, size_t count, uint8_t* values) {
  constexpr size_t kSize = sizeof(typename T::Bits);
  const auto scale = load_bits<uint16_t>(meta);
  const auto minimum = load_bits<uint16_t>(meta + 2);
  if constexpr (kBits == 8) {
    for (size_t i = 0; i < count; ++i) put_value<T>(values + i * kSize, codes[i], scale, minimum);
  } else {
    const size_t half = (count + 1) / 2;
    for (size_t i = 0; i < half; ++i) {
      put_value<T>(values + i * kSize, codes[i] & 15, scale, minimum);
      if (i + half < count)
        put_value<T>(values + (i + half) * kSize, codes[i] >> 4, scale, minimum);
    }
  }
}

template <class T, int kBits>
bool quantise_groups(const uint8_t* values, size_t count, uint8_t* codes, uint8_t* meta,
                     bool /*stream*/) {
  bool escaped = false;
  for (size_t i = 0; i < count; i += kGroup) {
    const size_t size = count - i < kGroup ? count - i : kGroup;
    escaped |= quantise_group<T, kBits>(values, size, codes, meta);
    values += size * sizeof(typename T::Bits);
    codes += code_bytes(kBits, size);
    meta += kMetaBytes;
  }
  return escaped;
}

template <class T, int kBits>
void dequantise_groups(const uint8_t* codes, const uint8_t* meta, size_t count, uint8_t* values,
                       bool /*stream*/) {
  for (size_t i = 0; i < count; i += kGroup) {
    const size_t size = count - i < kGroup ? count - i : kGroup;
    dequantise_group<T, kBits>(codes, meta, size, values);
    values += size * sizeof(typename T::Bits);
    codes += code_bytes(kBits, size);
    meta += kMetaBytes;
  }
}

// Channels [first, channels) of a page.
template <class T, int kBits>
bool quantise_channels(const uint8_t* values, ptrdiff_t token_bytes, size_t first, size_t channels,
                       uint8_t* codes, uint8_t* meta) {
  constexpr ptrdiff_t kSize = sizeof(typename T::Bits);
  constexpr size_t kRows = kBits == 8 ? kPage : kPage / 2;
  bool escaped = false;
  for (size_t channel = first; channel < channels; ++channel) {
    const uint8_t* const top = values + static_cast<ptrdiff_t>(channel) * kSize;
    float lowest;
    float highest;
    extremes_of<T>(top, token_bytes, kPage, &lowest, &highest);
    const Affine group = affine_of<T, kBits>(lowest, highest);
    escaped |= group.scale == T::Meta::kNan;
    for (size_t row = 0; row < kRows; ++row) {
      uint8_t code = code_at<T, kBits>(top + static_cast<ptrdiff_t>(row) * token_bytes, group);
      if constexpr (kBits == 4) {
        const auto below = static_cast<ptrdiff_t>(row + kRows);
        code = static_cast<uint8_t>(code | code_at<T, 4>(top + below * token_bytes, group) << 4);
      }
      codes[row * channels + channel] = code;
    }
    store_bits(meta + 2 * channel, group.scale);
    store_bits(meta + 2 * (channels + channel), group.minimum);
  }
  return escaped;
}

template <class T, int kBits>
void dequantise_channels(const uint8_t* codes, const uint8_t* meta, ptrdiff_t token_bytes,
                         size_t first, size_t channels, uint8_t* values) {
  constexpr ptrdiff_t kSize = sizeof(typename T::Bits);
  constexpr size_t kRows = kBits == 8 ? kPage : kPage / 2;
  for (size_t row = 0; row < kRows; ++row) {
    uint8_t* const out = values + static_cast<ptrdiff_t>(row) * token_bytes;
    for (size_t channel = first; channel < channels; ++channel) {
      const uint8_t code = codes[row * channels + channel];
      const auto scale = load_bits<uint16_t>(meta + 2 * channel);
      const auto minimum = load_bits<uint16_t>(meta + 2 * (channels + channel));
      uint8_t* const to = out + static_cast<ptrdiff_t>(channel) * kSize;
      if constexpr (kBits == 8) {
        put_value<T>(to, code, scale, minimum);
      } else {
        put_value<T>(to, code & 15, scale, minimum);
        put_value<T>(to + static_cast<ptrdiff_t>(kRows) * token_bytes, code >> 4, scale, minimum);
      }
    }
  }
}

template <class T, int kBits>
bool quantise_page(const uint8_t* values, ptrdiff_t token_bytes, size_t channels, uint8_t* codes,
                   uint8_t* meta, bool /*stream*/) {
  return quantise_channels<T, kBits>(values, token_bytes, 0, channels, codes, meta);
}

template <class T, int kBits>
void dequantise_page(const uint8_t* codes, const uint8_t* meta, ptrdiff_t token_bytes,
                     size_t channels, uint8_t* values, bool /*stream*/) {
  dequantise_channels<T, kBits>(codes, meta, token_bytes, 0, channels, values);
}

}  // namespace
}  // namespace blatam
