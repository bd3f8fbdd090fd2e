// The codebooks of `tq4` and `tq3`: the levels that quantise a normal distribution with the least
// squared error (S. Lloyd 1957; J. Max 1960), and the thresholds half-way between them. A rotated
// row divided by its root mean square is close to normal, whatever the row was.
// docs/CODECS.md, "tq4 and tq3", is the definition.
#pragma once

#include "kernels/arithmetic.h"

namespace blatam {

template <int kBits>
struct LloydMax {
  static constexpr size_t kLevels = size_t{1} << kBits;
  float levels[kLevels];          // ascending
  float thresholds[kLevels - 1];  // between levels i and i + 1
};

// From the positive levels, ascending.
template <int kBits>
static constexpr LloydMax<kBits> lloyd_max(const float (&positive)[size_t{1} << (kBits - 1)]) {
  constexpr size_t kHalf = size_t{1} << (kBits - 1);
  LloydMax<kBits> book{};
  for (size_t i = 0; i < kHalf; ++i) {
    book.levels[kHalf + i] = positive[i];
    book.levels[kHalf - 1 - i] = -positive[i];
  }
  for (size_t i = 0; i + 1 < 2 * kHalf; ++i) {
    const double sum = double{book.levels[i]} + double{book.levels[i + 1]};
    book.thresholds[i] = static_cast<float>(sum / 2);
  }
  return book;
}

static constexpr LloydMax<4> kLloydMax4 = lloyd_max<4>(
    {0.128395f, 0.388048f, 0.656759f, 0.94234f, 1.256231f, 1.618046f, 2.069017f, 2.73259f});
static constexpr LloydMax<3> kLloydMax3 =
    lloyd_max<3>({0.245094f, 0.756005f, 1.343909f, 2.151946f});

template <int kBits>
static constexpr const LloydMax<kBits>& codebook() {
  if constexpr (kBits == 4) {
    return kLloydMax4;
  } else {
    return kLloydMax3;
  }
}

// The nearest level: how many thresholds lie below the value. Of two that are equally near, the
// lower one.
template <int kBits>
BLATAM_HD uint8_t level_code(float value, const LloydMax<kBits>& book) {
  int code = 0;
  for (size_t i = 0; i + 1 < LloydMax<kBits>::kLevels; ++i) code += value > book.thresholds[i];
  return static_cast<uint8_t>(code);
}

// A row's norm as it is stored: the root mean square in fp16. A row escapes where that is not a
// normal number, but for a row of zeros, whose norm is 0. `squares`: sum_of_squares() of the row.
BLATAM_HD uint16_t norm_of(float squares, size_t count, bool all_zero) {
  const float mean = div_rn(squares, static_cast<float>(count));
  const uint16_t norm = Fp16::narrow(sqrt_rn(mean));
  const bool normal = (norm & 0x7c00u) != 0 && (norm & 0x7c00u) != 0x7c00u;
  return all_zero ? uint16_t{0} : normal ? norm : Fp16::kNan;
}

// Sums have an order: lane i of 16 takes values i, i + 16, i + 32 ... by fused multiply-add, then
// the lanes are added in halves, 8 apart, 4, 2, 1.
constexpr size_t kSumLanes = 16;

BLATAM_HD float sum_of_lanes(float* lanes) {
  for (size_t half = kSumLanes / 2; half > 0; half /= 2)
    for (size_t i = 0; i < half; ++i) lanes[i] = add_rn(lanes[i], lanes[i + half]);
  return lanes[0];
}

}  // namespace blatam
