// The lossless kernels for every machine: the loops as they stand. This object exports one table.
#include "kernels/exp4_loops.h"
#include "kernels/huffman_loops.h"

namespace blatam {

const LosslessKernels kLosslessBaseline = {
    "baseline",
    {kExp4Loops<PlainBlocks, Dtype::bf16>, kExp4Loops<PlainBlocks, Dtype::fp16>,
     kExp4Loops<PlainBlocks, Dtype::fp32>},
    huff_kernels(pack_stream),
};

}  // namespace blatam
