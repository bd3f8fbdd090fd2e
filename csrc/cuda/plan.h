// A job with everything worked out that is the same for all threads: where planes lie, how the work
// is cut. It is what a kernel takes by value. Made on the host, where all checks are.
#pragma once

#include <stdint.h>

#include "cuda/paged.h"
#include "kernels/lloyd_max.h"

namespace blatam::cuda {

// Values, tokens and bytes of one payload stay below 2^31, so that indices within one have 32 bits.
constexpr uint64_t kMostOfPayload = (uint64_t{1} << 31) - 1;
// Values that a rotation holds at once: a head's, or, where heads have fewer than 64 channels, all
// of a token's. A head has less: its largest block is 512.
constexpr uint32_t kMostRotated = 1024;

constexpr uint32_t kWarpsInBlock = 8;

struct Plan {
  Job job;
  // Planes of a payload; scheme by scheme as in kernels/scheme_*.cc.
  uint64_t meta_begin;
  uint64_t tail_begin;   // of the tokens that fill no page
  uint64_t fixed_bytes;  // without escapes
  uint64_t most_bytes;   // where the size depends on the values; else the same
  uint32_t codes_end;    // the end of the codes, before zeros up to meta_begin
  uint32_t meta_end;
  uint32_t rows;
  uint32_t row_values;
  uint32_t row_groups;
  uint32_t row_code_bytes;
  uint32_t row_meta_bytes;
  uint32_t pages;
  bool whole_tokens;  // a row is all heads of a token
  bool vector;        // eight values are one aligned load, wherever they lie
  // The work on one payload: warps for its rows, pages or chunks; then more for its tail.
  uint32_t items;
  uint32_t tail_items;
  LloydMax<4> book4;  // here, because device code cannot index a host table
  LloydMax<3> book3;
};

// Fills `plan`. Returns a Code.
int make_plan(const Job& job, Plan* plan);

}  // namespace blatam::cuda
