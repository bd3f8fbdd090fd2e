// The table of the plain loops, as the including file's flags compile them. Internal to that file.
#pragma once

#include "kernels/affine_loops.h"
#include "kernels/exchange_loops.h"
#include "kernels/rotation_loops.h"

namespace blatam {
namespace {

template <class T, int kBits>
constexpr GroupKernels group_loops() {
  return {quantise_groups<T, kBits>, dequantise_groups<T, kBits>};
}

template <class T, int kBits>
constexpr PageKernels page_loops() {
  return {quantise_page<T, kBits>, dequantise_page<T, kBits>};
}

template <class T>
constexpr RotationKernels rotation_loops() {
  return {rotate_head<T>, unrotate_head<T>, sum_of_squares<T>, group_loops<Rotated<T>, 4>()};
}

template <int kBits>
constexpr LevelKernels level_loops() {
  return {quantise_levels<kBits>, dequantise_levels<kBits>};
}

template <class T>
constexpr ExchangeKernels exchange_loops() {
  return {{quantise_fp8<T>, dequantise_fp8<T>},
          {quantise_head8<T>, dequantise_head8<T>},
          {quantise_q8<T>, dequantise_q8<T>}};
}

constexpr Kernels loops(const char* isa) {
  return {
      isa,
      {{group_loops<Bf16, 8>(), group_loops<Fp16, 8>(), group_loops<Fp32, 8>()},
       {group_loops<Bf16, 4>(), group_loops<Fp16, 4>(), group_loops<Fp32, 4>()}},
      {{page_loops<Bf16, 8>(), page_loops<Fp16, 8>(), page_loops<Fp32, 8>()},
       {page_loops<Bf16, 4>(), page_loops<Fp16, 4>(), page_loops<Fp32, 4>()}},
      {rotation_loops<Bf16>(), rotation_loops<Fp16>(), rotation_loops<Fp32>()},
      {level_loops<4>(), level_loops<3>()},
      {exchange_loops<Bf16>(), exchange_loops<Fp16>(), exchange_loops<Fp32>()},
  };
}

}  // namespace
}  // namespace blatam
