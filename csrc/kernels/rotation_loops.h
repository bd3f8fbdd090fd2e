// The rotation and the codebooks as plain loops; see affine_loops.h. Internal to the file that
// includes it.
#pragma once

#include "kernels/affine_loops.h"
#include "kernels/lloyd_max.h"
#include "kernels/rotation.h"

namespace blatam {
namespace {

template <class T>
bool rotate_head(const uint8_t* values, const uint32_t* signs, size_t head_dim, float* rotated) {
  uint32_t greatest = 0;
  for (size_t i = 0; i < head_dim; ++i) {
    const uint32_t bits =
        bits_of(T::widen(load_bits<typename T::Bits>(values + i * sizeof(typename T::Bits))));
    const uint32_t magnitude = bits & 0x7fffffffu;
    greatest = magnitude > greatest ? magnitude : greatest;
    rotated[i] = float_of(bits ^ signs[i]);
  }
  if (greatest >= kRotationLimit) return false;
  for (size_t begin = 0; begin < head_dim;) {
    const size_t size = block_size(head_dim - begin);
    const float factor = length_factor(size);
    fwht(rotated + begin, size);
    for (size_t i = begin; i < begin + size; ++i) rotated[i] = mul_rn(rotated[i], factor);
    begin += size;
  }
  return true;
}

template <class T>
void unrotate_head(float* rotated, const uint32_t* signs, size_t head_dim, uint8_t* values) {
  for (size_t begin = 0; begin < head_dim;) {
    const size_t size = block_size(head_dim - begin);
    const float factor = length_factor(size);
    fwht(rotated + begin, size);
    for (size_t i = begin; i < begin + size; ++i) {
      const float value = float_of(bits_of(mul_rn(rotated[i], factor)) ^ signs[i]);
      store_bits(values + i * sizeof(typename T::Bits), narrow_finite<T>(value));
    }
    begin += size;
  }
}

template <class T>
float sum_of_squares(const uint8_t* values, size_t count) {
  float lanes[kSumLanes] = {};
  for (size_t i = 0; i < count; ++i) {
    const float x = T::widen(load_bits<typename T::Bits>(values + i * sizeof(typename T::Bits)));
    lanes[i % kSumLanes] = fma_rn(x, x, lanes[i % kSumLanes]);
  }
  return sum_of_lanes(lanes);
}

// ---- codes of a codebook ------------------------------------------------------------------------

// Groups of 64, the last one of `size` values. Four bits as in code_bytes(). Three: the low two
// bits of value i + k * q in bits 2 k of byte i, q = ceil(size / 4); then the high bits, eight a
// byte.
template <int kBits>
void put_levels(const uint8_t* levels, size_t size, uint8_t* codes) {
  if constexpr (kBits == 4) {
    const size_t half = (size + 1) / 2;
    for (size_t i = 0; i < half; ++i) {
      const int high = i + half < size ? levels[i + half] : 0;
      codes[i] = static_cast<uint8_t>(levels[i] | high << 4);
    }
  } else {
    const size_t quarter = (size + 3) / 4;
    memset(codes, 0, level_bytes(3, size));
    for (size_t i = 0; i < size; ++i) {
      uint8_t* const low = codes + i % quarter;
      uint8_t* const high = codes + quarter + i / 8;
      *low = static_cast<uint8_t>(*low | (levels[i] & 3) << (2 * (i / quarter)));
      *high = static_cast<uint8_t>(*high | (levels[i] >> 2) << (i % 8));
    }
  }
}

template <int kBits>
uint8_t level_at(const uint8_t* codes, size_t size, size_t i) {
  if constexpr (kBits == 4) {
    const size_t half = (size + 1) / 2;
    return i < half ? codes[i] & 15 : codes[i - half] >> 4;
  } else {
    const size_t quarter = (size + 3) / 4;
    const int low = codes[i % quarter] >> (2 * (i / quarter)) & 3;
    const int high = codes[quarter + i / 8] >> (i % 8) & 1;
    return static_cast<uint8_t>(low | high << 2);
  }
}

template <int kBits>
void quantise_levels(const float* rotated, float inverse, size_t count, uint8_t* codes) {
  uint8_t levels[kGroup];
  for (size_t begin = 0; begin < count; begin += kGroup) {
    const size_t size = count - begin < kGroup ? count - begin : kGroup;
    for (size_t i = 0; i < size; ++i)
      levels[i] = level_code<kBits>(mul_rn(rotated[begin + i], inverse), codebook<kBits>());
    put_levels<kBits>(levels, size, codes);
    codes += level_bytes(kBits, size);
  }
}

template <int kBits>
void dequantise_levels(const uint8_t* codes, float norm, size_t count, float* rotated) {
  for (size_t begin = 0; begin < count; begin += kGroup) {
    const size_t size = count - begin < kGroup ? count - begin : kGroup;
    for (size_t i = 0; i < size; ++i)
      rotated[begin + i] = mul_rn(codebook<kBits>().levels[level_at<kBits>(codes, size, i)], norm);
    codes += level_bytes(kBits, size);
  }
}

}  // namespace
}  // namespace blatam
