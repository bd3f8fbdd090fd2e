// The kernels with AVX-512 (F, BW, DQ, VL, VBMI). This object exports one table.
#include "kernels/affine_avx512.h"
#include "kernels/affine_decode_avx512.h"
#include "kernels/kernel_table.h"
#include "kernels/pages_avx512.h"
#include "kernels/rotation_avx512.h"

namespace blatam {
namespace {

template <class T, int kBits>
constexpr GroupKernels group_kernels() {
  return {quantise_row<T, kBits>, dequantise_row<T, kBits>};
}

template <class T, int kBits>
constexpr PageKernels page_kernels() {
  return {quantise_page_wide<T, kBits>, dequantise_page_wide<T, kBits>};
}

template <class T>
constexpr RotationKernels rotation_kernels() {
  return {rotate_wide<T>, unrotate_wide<T>, sum_of_squares_wide<T>, group_kernels<Rotated<T>, 4>()};
}

constexpr Kernels table() {
  const Kernels plain = loops("avx512");
  return {
      "avx512",
      {{group_kernels<Bf16, 8>(), group_kernels<Fp16, 8>(), group_kernels<Fp32, 8>()},
       {group_kernels<Bf16, 4>(), group_kernels<Fp16, 4>(), group_kernels<Fp32, 4>()}},
      {{page_kernels<Bf16, 8>(), page_kernels<Fp16, 8>(), page_kernels<Fp32, 8>()},
       {page_kernels<Bf16, 4>(), page_kernels<Fp16, 4>(), page_kernels<Fp32, 4>()}},
      {rotation_kernels<Bf16>(), rotation_kernels<Fp16>(), rotation_kernels<Fp32>()},
      {{quantise_levels_wide<4>, dequantise_levels_wide<4>},
       {quantise_levels_wide<3>, dequantise_levels_wide<3>}},
      {plain.exchange[0], plain.exchange[1], plain.exchange[2]},
  };
}

}  // namespace

const Kernels kKernelsAvx512 = table();

}  // namespace blatam
