// `tq4` and `tq3`: each head rotated (rotation.h), divided by its norm and taken to the nearest
// levels of a codebook (lloyd_max.h). TurboQuant without its second, one-bit stage (Zandieh et al.,
// arXiv 2504.19874). Payload: the codes of all rows; from the next multiple of 16, their norms; the
// section of escapes.
#include <atomic>
#include <cstring>
#include <vector>

#include "kernels/head_rows.h"
#include "kernels/lloyd_max.h"
#include "kernels/parallel.h"
#include "kernels/schemes.h"
#include "kernels/signs.h"
#include "kernels/token_rows.h"

namespace blatam {
namespace {

template <int kBits>
struct Layout : HeadRows {
  using HeadRows::HeadRows;

  uint64_t row_code_bytes() const { return level_bytes(kBits, shape_.head_dim); }
  uint64_t norms_begin() const { return plane_end(rows() * row_code_bytes()); }
  uint64_t bytes() const { return norms_begin() + 2 * rows(); }
};

template <int kBits>
uint64_t payload_bytes(const Shape& shape, Dtype /*dtype*/) {
  return Layout<kBits>(shape).bytes();
}

bool all_zero(const float* rotated, size_t count) {
  for (size_t i = 0; i < count; ++i)
    if (rotated[i] != 0.0f) return false;
  return true;
}

template <int kBits>
uint64_t encode(const Job& job, const Source& source, std::span<uint8_t> payload) {
  const Layout<kBits> layout(source.shape);
  const uint64_t fixed = layout.bytes();
  if (fixed > payload.size()) return fixed;
  const RotationKernels& kernels = job.kernels.rotation(source.dtype);
  const auto quantise = job.kernels.level(kBits).quantise;
  const size_t dim = source.shape.head_dim;
  const std::vector<uint32_t> signs = signs_of(job.seed, dim);
  uint8_t* const norms = payload.data() + layout.norms_begin();
  const uint64_t codes_end = layout.rows() * layout.row_code_bytes();
  std::memset(payload.data() + codes_end, 0, layout.norms_begin() - codes_end);
  std::atomic<bool> escaped = false;
  in_parallel(job.threads, layout.rows(), [&](uint64_t begin, uint64_t end) {
    std::vector<float> rotated(dim);
    for (uint64_t row = begin; row < end; ++row) {
      const uint8_t* const values = source.at(layout.token(row), layout.head(row), 0);
      uint8_t* const codes = payload.data() + row * layout.row_code_bytes();
      uint16_t norm = Fp16::kNan;
      if (kernels.rotate(values, signs.data(), dim, rotated.data())) {
        const float squares = kernels.sum_of_squares(values, dim);
        norm = norm_of(squares, dim, squares == 0.0f && all_zero(rotated.data(), dim));
      }
      store_bits(norms + 2 * row, norm);
      if (norm == Fp16::kNan) {
        std::memset(codes, 0, layout.row_code_bytes());
        escaped = true;
      } else {
        const float inverse = norm != 0 ? div_rn(1.0f, Fp16::widen(norm)) : 0.0f;
        quantise(rotated.data(), inverse, dim, codes);
      }
    }
  });
  if (!escaped) return fixed;
  const auto flagged = [&](uint64_t row) {
    return load_bits<uint16_t>(norms + 2 * row) == Fp16::kNan;
  };
  return put_escapes(source, layout, flagged, payload, fixed);
}

template <int kBits>
const char* decode(const Job& job, std::span<const uint8_t> payload, const Target& target) {
  const Layout<kBits> layout(target.shape);
  const RotationKernels& kernels = job.kernels.rotation(target.dtype);
  const auto dequantise = job.kernels.level(kBits).dequantise;
  const size_t dim = target.shape.head_dim;
  const std::vector<uint32_t> signs = signs_of(job.seed, dim);
  const uint8_t* const norms = payload.data() + layout.norms_begin();
  in_parallel(job.threads, layout.rows(), [&](uint64_t begin, uint64_t end) {
    std::vector<float> rotated(dim);
    for (uint64_t row = begin; row < end; ++row) {
      dequantise(payload.data() + row * layout.row_code_bytes(),
                 Fp16::widen(load_bits<uint16_t>(norms + 2 * row)), dim, rotated.data());
      kernels.unrotate(rotated.data(), signs.data(), dim,
                       target.at(layout.token(row), layout.head(row), 0));
    }
  });
  return take_escapes(payload.subspan(layout.bytes()), layout, target);
}

}  // namespace

const Scheme kLevels4 = {kGroup, false, payload_bytes<4>, payload_bytes<4>, encode<4>, decode<4>};
const Scheme kLevels3 = {kGroup, false, payload_bytes<3>, payload_bytes<3>, encode<3>, decode<3>};

}  // namespace blatam
