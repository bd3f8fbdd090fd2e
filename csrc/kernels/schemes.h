// Every scheme by name, for the registry in codec.cc; each is defined in its own scheme_*.cc.
#pragma once

#include "kernels/codec.h"

namespace blatam {

// Outputs larger than this are written around the caches.
constexpr uint64_t kStreamBytes = uint64_t{1} << 20;

extern const Scheme kRaw;      // scheme_raw.cc
extern const Scheme kExp4;     // scheme_exp4.cc
extern const Scheme kExpHuff;  // scheme_exp_huff.cc
extern const Scheme kToken8;   // scheme_token.cc
extern const Scheme kToken4;
extern const Scheme kChannel8;  // scheme_channel.cc
extern const Scheme kChannel4;
extern const Scheme kRotated4;  // scheme_rotated.cc
extern const Scheme kLevels4;   // scheme_levels.cc
extern const Scheme kLevels3;
extern const Scheme kFp8;  // scheme_exchange.cc
extern const Scheme kHead8;
extern const Scheme kQ8;

}  // namespace blatam
