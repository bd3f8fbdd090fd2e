// The kernels with AVX2 (and FMA, F16C, BMI2): groups by hand, the rest as these flags compile the
// loops. This object exports one table.
#include "kernels/affine_avx2.h"
#include "kernels/affine_decode_avx2.h"
#include "kernels/kernel_table.h"
#include "kernels/pages_avx2.h"

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
  return {rotate_head<T>, unrotate_head<T>, sum_of_squares<T>, group_kernels<Rotated<T>, 4>()};
}

constexpr Kernels table() {
  const Kernels plain = loops("avx2");
  return {
      "avx2",
      {{group_kernels<Bf16, 8>(), group_kernels<Fp16, 8>(), group_kernels<Fp32, 8>()},
       {group_kernels<Bf16, 4>(), group_kernels<Fp16, 4>(), group_kernels<Fp32, 4>()}},
      {{page_kernels<Bf16, 8>(), page_kernels<Fp16, 8>(), page_kernels<Fp32, 8>()},
       {page_kernels<Bf16, 4>(), page_kernels<Fp16, 4>(), page_kernels<Fp32, 4>()}},
      {rotation_kernels<Bf16>(), rotation_kernels<Fp16>(), rotation_kernels<Fp32>()},
      {plain.levels[0], plain.levels[1]},
      {plain.exchange[0], plain.exchange[1], plain.exchange[2]},
  };
}

}  // namespace

const Kernels kKernelsAvx2 = table();

}  // namespace blatam
