// Every scheme by name, for the registry in codec.cc; each is defined in its own scheme_*.cc.
#pragma once

#include "kernels/codec.h"

namespace blatam {

extern const Scheme kRaw;   // scheme_raw.cc
extern const Scheme kInt8;  // scheme_token.cc
extern const Scheme kInt4;

}  // namespace blatam
