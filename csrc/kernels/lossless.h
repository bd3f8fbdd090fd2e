// The kernels of the lossless codecs, exp4 and exp_huff (docs/CODECS.md defines their bytes): a
// table for each instruction set, all with the same bytes. Both codecs cut a value in the same
// place. Its *top* is eight bits from the exponent downwards (bf16, fp32: the exponent; fp16: the
// exponent and three bits of the mantissa), which is where the redundancy is; its *rest* is the
// sign and the next seven bits of the mantissa; fp32 has two more bytes, the *tail*.
//
// A kernel knows no tensor and no blob, allocates nothing and keeps nothing: any number of threads
// may run it. Pointers need no alignment. Those that read what a stranger may have written never
// leave the memory they are given, whatever it holds, and return false for what no encoder writes.
// Plain types and static functions only: an instruction set's file includes this and the loops, and
// exports one table.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "kernels/tensor.h"

namespace blatam {

// ---- exp4 ---------------------------------------------------------------------------------------

constexpr size_t kChunk =
    1024;  // values that share a largest exponent; the last chunk may be shorter
constexpr size_t kCodeBlock = 64;  // values whose codes are packed together

// A chunk's line in the table: the largest exponent, then a 16-bit count of escapes, or kRawChunk.
constexpr size_t kChunkLine = 3;
constexpr uint16_t kRawChunk = 0xffff;
constexpr size_t kEscapeBytes = 3;  // a 16-bit place in the chunk, then the exponent

// Bytes of the codes of a whole block: a code has four bits, and for fp16 three of the mantissa
// more.
static constexpr size_t code_block_bytes(Dtype dtype) { return dtype == Dtype::fp16 ? 56 : 32; }

static constexpr size_t exp4_code_bytes(Dtype dtype, size_t count) {
  const size_t whole = code_block_bytes(dtype);
  const size_t left = count % kCodeBlock;
  return count / kCodeBlock * whole + (left < whole ? left : whole);
}

// Where codes end and tops would not: a raw chunk keeps these bytes among the escapes, and a chunk
// whose escapes would need more is stored raw.
static constexpr size_t raw_chunk_excess(Dtype dtype, size_t count) {
  return count - exp4_code_bytes(dtype, count);
}

// Codes, rests and tails of a chunk. `tail_bytes`: how many of fp32's last two bytes are stored.
static constexpr size_t exp4_body_bytes(Dtype dtype, size_t tail_bytes, size_t count) {
  return exp4_code_bytes(dtype, count) + count * (1 + tail_bytes);
}

struct Exp4Kernels {
  // Lines, bodies and escapes of `count` values, a multiple of kChunk but at the tensor's end; each
  // in chunk order without gaps. `escapes` has room for raw_chunk_excess of every chunk. Values
  // lose the tail bytes that are not stored. Returns the bytes of escapes. `stream`: the output is
  // larger than the caches, so write around them.
  size_t (*encode)(const uint8_t* values, size_t count, size_t tail_bytes, uint8_t* lines,
                   uint8_t* bodies, uint8_t* escapes, bool stream);
  // The values again. Requires lines that are possible: not more escapes than raw_chunk_excess has
  // room for, and as many bytes of escapes as the lines say.
  bool (*decode)(const uint8_t* lines, const uint8_t* bodies, const uint8_t* escapes, size_t count,
                 size_t tail_bytes, uint8_t* values, bool stream);
};

// ---- exp_huff -----------------------------------------------------------------------------------

constexpr int kLongestCode = 11;
constexpr size_t kTableSize = size_t{1} << kLongestCode;
constexpr size_t kStreams = 8;

// A plane is one byte of every value: 0 the tops, 1 the rests, 2 and 3 fp32's bits 15..8 and 7..0.
constexpr size_t kMostPlanes = 4;

// Symbols of stream `stream` when `count` are cut into kStreams pieces.
static constexpr size_t stream_begin(size_t stream, size_t count) {
  const size_t piece = (count + kStreams - 1) / kStreams;
  return stream * piece < count ? stream * piece : count;
}

// What the next kLongestCode bits of a stream say. `many`: up to six symbols in the low bytes, the
// bits of their codes in byte 6, their number in byte 7. `one`: the first symbol, and the bits of
// its code in the high byte.
struct DecodeTable {
  uint64_t many[kTableSize];
  uint16_t one[kTableSize];
};

struct HuffKernels {
  // Values of two or four bytes to as many planes, and back.
  void (*split)(const uint8_t* values, size_t count, size_t width, uint8_t* const* planes);
  void (*merge)(const uint8_t* const* planes, size_t count, size_t width, uint8_t* values,
                bool stream);
  // Adds to counts[256].
  void (*count)(const uint8_t* symbols, size_t count, uint32_t* counts);
  // One stream: the codes of the symbols, the first in the lowest bits. A code's bits are in
  // codes[symbol] >> 4, its length in the low four bits. Returns the bytes of the stream; up to
  // eight more are written.
  size_t (*pack)(const uint8_t* symbols, size_t count, const uint16_t* codes, uint8_t* stream);
  // All streams of a plane, one after the other, `bytes` long each. Requires a table of a complete
  // code.
  bool (*unpack)(const uint8_t* streams, const uint16_t* bytes, const DecodeTable& table,
                 size_t count, uint8_t* symbols);
};

// ---- the tables ---------------------------------------------------------------------------------

struct LosslessKernels {
  const char* isa;
  Exp4Kernels exp4[3];  // by Dtype
  HuffKernels huff;
};

extern const LosslessKernels kLosslessBaseline;
extern const LosslessKernels kLosslessAvx2;
extern const LosslessKernels kLosslessAvx512;

// The table for an instruction set by its name in core/isa.h. The caller knows that the machine can
// run it; for a name without a table of its own, the baseline's.
const LosslessKernels& lossless_for(const char* isa);

}  // namespace blatam
