// The kernels with AVX-512 (F, BW, DQ, VL, VBMI). This object exports one table.
#include "kernels/affine_avx512.h"
#include "kernels/affine_decode_avx512.h"
#include "kernels/kernel_table.h"

namespace blatam {
namespace {

template <class T, int kBits>
constexpr GroupKernels group_kernels() {
  return {quantise_row<T, kBits>, dequantise_row<T, kBits>};
}

constexpr Kernels table() {
  Kernels kernels = loops("avx512");
  kernels.groups[0][0] = group_kernels<Bf16, 8>();
  kernels.groups[0][1] = group_kernels<Fp16, 8>();
  kernels.groups[0][2] = group_kernels<Fp32, 8>();
  kernels.groups[1][0] = group_kernels<Bf16, 4>();
  kernels.groups[1][1] = group_kernels<Fp16, 4>();
  kernels.groups[1][2] = group_kernels<Fp32, 4>();
  kernels.rotations[0].group = group_kernels<Rotated<Bf16>, 4>();
  kernels.rotations[1].group = group_kernels<Rotated<Fp16>, 4>();
  kernels.rotations[2].group = group_kernels<Rotated<Fp32>, 4>();
  return kernels;
}

}  // namespace

const Kernels kKernelsAvx512 = table();

}  // namespace blatam
