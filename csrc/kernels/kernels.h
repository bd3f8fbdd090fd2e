// The kernels: loops over contiguous values, one table of them for each instruction set, all with
// the same bits. A kernel knows no tensor, blob or codec; it takes what is in front of it,
// allocates nothing and may run in any number of threads. It requires the default floating-point
// mode (parallel.h). Pointers need no alignment. `values` is of the type the row of the table
// names.
//
// An instruction set's file includes this header and a body, and exports one table.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "kernels/packing.h"
#include "kernels/tensor.h"

namespace blatam {

// Values in a block of q8_0.
constexpr size_t kQ8Block = 32;

// One row of values, cut into groups. Formats without metadata pass over `meta`.
struct GroupKernels {
  // Codes and metadata of a row. True if a group escapes. `stream`: the output is larger than the
  // caches and is not read soon, so write around them.
  bool (*quantise)(const uint8_t* values, size_t count, uint8_t* codes, uint8_t* meta, bool stream);
  // The values again; those of escaped groups are unspecified.
  void (*dequantise)(const uint8_t* codes, const uint8_t* meta, size_t count, uint8_t* values,
                     bool stream);
};

// One page of 64 tokens, each channel over the page. Tokens lie `token_bytes` apart. Codes: a row
// of `channels` bytes for each token (eight bits), or for tokens t (low half) and t + 32 (high
// half). Metadata: the scales of all channels, then their minima.
struct PageKernels {
  bool (*quantise)(const uint8_t* values, ptrdiff_t token_bytes, size_t channels, uint8_t* codes,
                   uint8_t* meta, bool stream);
  void (*dequantise)(const uint8_t* codes, const uint8_t* meta, ptrdiff_t token_bytes,
                     size_t channels, uint8_t* values, bool stream);
};

// One head of one token, from the tensor's type to rotated floats and back. `signs`: sign_of() each
// channel. rotate() returns false where a magnitude is kRotationLimit or more; `rotated` is then
// unspecified. unrotate() overwrites `rotated`.
struct RotationKernels {
  bool (*rotate)(const uint8_t* values, const uint32_t* signs, size_t head_dim, float* rotated);
  void (*unrotate)(float* rotated, const uint32_t* signs, size_t head_dim, uint8_t* values);
  float (*sum_of_squares)(const uint8_t* values, size_t count);
  // The affine quantiser at four bits on rotated floats.
  GroupKernels group;
};

// Rotated values times `inverse` to the codes of a codebook; codes to levels times `norm`.
struct LevelKernels {
  void (*quantise)(const float* rotated, float inverse, size_t count, uint8_t* codes);
  void (*dequantise)(const uint8_t* codes, float norm, size_t count, float* rotated);
};

// Whole rows: fp8_e4m3, int8_per_token_head, q8_0.
struct ExchangeKernels {
  GroupKernels fp8;
  GroupKernels head8;
  GroupKernels q8;
};

static constexpr size_t width_index(int bits) { return bits == 8 ? 0 : 1; }

// Indices are width_index(bits) and the Dtype.
struct Kernels {
  const char* isa;
  GroupKernels groups[2][3];
  PageKernels pages[2][3];
  RotationKernels rotations[3];
  LevelKernels levels[2];  // 4 bits, 3 bits
  ExchangeKernels exchange[3];

  const GroupKernels& group(int bits, Dtype dtype) const {
    return groups[width_index(bits)][static_cast<size_t>(dtype)];
  }
  const PageKernels& page(int bits, Dtype dtype) const {
    return pages[width_index(bits)][static_cast<size_t>(dtype)];
  }
  const RotationKernels& rotation(Dtype dtype) const {
    return rotations[static_cast<size_t>(dtype)];
  }
  const LevelKernels& level(int bits) const { return levels[bits == 4 ? 0 : 1]; }
};

extern const Kernels kKernelsBaseline;
extern const Kernels kKernelsAvx2;    // x86-64 only
extern const Kernels kKernelsAvx512;  // x86-64 only

// The table for an instruction set by its name in core/isa.h. The caller knows that the machine can
// run it; for a name without a table of its own, the baseline's.
const Kernels& kernels_for(const char* isa);

}  // namespace blatam
