// How codes are packed and where a payload's planes begin: the sizes that encoder and decoder, host
// and device agree on (docs/CODECS.md). Static functions and plain types only.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace blatam {

// Values that share a scale; the last group of a row may be shorter.
constexpr size_t kGroup = 64;
// Bytes of a group's scale and minimum, in this order.
constexpr size_t kMetaBytes = 4;
// Tokens of a page whose channels are quantised, each over the page.
constexpr size_t kPage = 64;

// Codes of `values` values at `bits` each. Eight bits: a byte each. Four: groups of 64 as 32 bytes,
// value i in the low half of byte i, value i + 32 in the high half; a last group of g values as
// h = ceil(g / 2) bytes, value i low and value i + h high.
static constexpr size_t code_bytes(int bits, size_t values) {
  return bits == 8 ? values : values / kGroup * (kGroup / 2) + (values % kGroup + 1) / 2;
}

// Codes of a codebook: the same at four bits; at three, 24 bytes for 64 values (rotation_loops.h).
static constexpr size_t level_bytes(int bits, size_t values) {
  if (bits == 4) return code_bytes(4, values);
  const size_t rest = values % kGroup;
  return values / kGroup * 24 + (rest + 3) / 4 + (rest + 7) / 8;
}

// Planes of a payload begin at multiples of 16 bytes from its start.
static constexpr uint64_t plane_end(uint64_t bytes) { return (bytes + 15) / 16 * 16; }

}  // namespace blatam
