// The formats for exchange as plain loops; see affine_loops.h. Internal to the file that includes
// it.
#pragma once

#include "kernels/exchange.h"
#include "kernels/kernels.h"

namespace blatam {
namespace {

template <class T>
float value_at(const uint8_t* values, size_t i) {
  return T::widen(load_bits<typename T::Bits>(values + i * sizeof(typename T::Bits)));
}

template <class T>
float greatest_magnitude(const uint8_t* values, size_t count) {
  uint32_t greatest = 0;
  for (size_t i = 0; i < count; ++i) {
    const uint32_t magnitude = bits_of(value_at<T>(values, i)) & 0x7fffffffu;
    greatest = magnitude > greatest ? magnitude : greatest;
  }
  return float_of(greatest);
}

template <class T>
void put_finite(uint8_t* values, size_t i, float value) {
  store_bits(values + i * sizeof(typename T::Bits), narrow_finite<T>(value));
}

// ---- fp8_e4m3: a row that escapes is all kFp8Nan ------------------------------------------------

template <class T>
bool quantise_fp8(const uint8_t* values, size_t count, uint8_t* codes, uint8_t* /*meta*/,
                  bool /*stream*/) {
  const bool escapes = !is_finite(greatest_magnitude<T>(values, count));
  for (size_t i = 0; i < count; ++i) codes[i] = escapes ? kFp8Nan : fp8_of(value_at<T>(values, i));
  return escapes;
}

template <class T>
void dequantise_fp8(const uint8_t* codes, const uint8_t* /*meta*/, size_t count, uint8_t* values,
                    bool /*stream*/) {
  for (size_t i = 0; i < count; ++i) put_finite<T>(values, i, value_of_fp8(codes[i]));
}

// ---- int8_per_token_head: one float32 scale a row -----------------------------------------------

template <class T>
bool quantise_head8(const uint8_t* values, size_t count, uint8_t* codes, uint8_t* meta,
                    bool /*stream*/) {
  const float scale = div_rn(greatest_magnitude<T>(values, count), kInt8Range);
  const float inverse = inverse_of(scale);
  const bool escapes = !is_finite(inverse);
  for (size_t i = 0; i < count; ++i)
    codes[i] = escapes ? 0 : static_cast<uint8_t>(int8_of(value_at<T>(values, i), inverse));
  store_bits(meta, escapes ? kFp32Nan : bits_of(scale));
  return escapes;
}

template <class T>
void dequantise_head8(const uint8_t* codes, const uint8_t* meta, size_t count, uint8_t* values,
                      bool /*stream*/) {
  const float scale = float_of(load_bits<uint32_t>(meta));
  for (size_t i = 0; i < count; ++i)
    put_finite<T>(values, i, mul_rn(static_cast<float>(static_cast<int8_t>(codes[i])), scale));
}

// ---- q8_0: blocks of 32 along a row, each an fp16 scale and its codes ---------------------------

template <class T>
bool quantise_q8(const uint8_t* values, size_t count, uint8_t* blocks, uint8_t* /*meta*/,
                 bool /*stream*/) {
  bool escaped = false;
  for (size_t begin = 0; begin < count; begin += kQ8Block) {
    const size_t size = count - begin < kQ8Block ? count - begin : kQ8Block;
    const uint8_t* const from = values + begin * sizeof(typename T::Bits);
    const float scale = div_rn(greatest_magnitude<T>(from, size), kInt8Range);
    const float inverse = inverse_of(scale);
    uint16_t stored = is_finite(scale) ? Fp16::narrow(scale) : Fp16::kNan;
    const bool lost = stored == 0 && scale != 0.0f;
    const bool escapes = lost || !Fp16::finite(stored) || !is_finite(inverse);
    if (escapes) stored = Fp16::kNan;
    store_bits(blocks, stored);
    for (size_t i = 0; i < size; ++i)
      blocks[2 + i] = escapes ? 0 : static_cast<uint8_t>(int8_of(value_at<T>(from, i), inverse));
    blocks += 2 + size;
    escaped |= escapes;
  }
  return escaped;
}

template <class T>
void dequantise_q8(const uint8_t* blocks, const uint8_t* /*meta*/, size_t count, uint8_t* values,
                   bool /*stream*/) {
  for (size_t begin = 0; begin < count; begin += kQ8Block) {
    const size_t size = count - begin < kQ8Block ? count - begin : kQ8Block;
    const float scale = Fp16::widen(load_bits<uint16_t>(blocks));
    for (size_t i = 0; i < size; ++i)
      put_finite<T>(values, begin + i,
                    mul_rn(static_cast<float>(static_cast<int8_t>(blocks[2 + i])), scale));
    blocks += 2 + size;
  }
}

}  // namespace
}  // namespace blatam
