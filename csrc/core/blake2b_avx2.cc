// BLAKE2b with AVX2: blake2b_rounds.h compiled with the flags of this file, under one name. This
// object exports that one symbol.
#include "core/blake2b_rounds.h"

namespace blatam {

const Blake2b kBlake2bAvx2 = {"avx2", blake2b_update<Blake2bRows>, blake2b_chain<Blake2bRows>};

}  // namespace blatam
