// The kernels for every machine: the loops as they stand. This object exports one table.
#include "kernels/affine_loops.h"

namespace blatam {

const Kernels kKernelsBaseline = {
    "baseline",
    {{{quantise_groups<Bf16, 8>, dequantise_groups<Bf16, 8>},
      {quantise_groups<Fp16, 8>, dequantise_groups<Fp16, 8>},
      {quantise_groups<Fp32, 8>, dequantise_groups<Fp32, 8>}},
     {{quantise_groups<Bf16, 4>, dequantise_groups<Bf16, 4>},
      {quantise_groups<Fp16, 4>, dequantise_groups<Fp16, 4>},
      {quantise_groups<Fp32, 4>, dequantise_groups<Fp32, 4>}}},
    {{{quantise_page<Bf16, 8>, dequantise_page<Bf16, 8>},
      {quantise_page<Fp16, 8>, dequantise_page<Fp16, 8>},
      {quantise_page<Fp32, 8>, dequantise_page<Fp32, 8>}},
     {{quantise_page<Bf16, 4>, dequantise_page<Bf16, 4>},
      {quantise_page<Fp16, 4>, dequantise_page<Fp16, 4>},
      {quantise_page<Fp32, 4>, dequantise_page<Fp32, 4>}}},
};

}  // namespace blatam
