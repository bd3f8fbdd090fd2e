// `int4_rot`: each head rotated (rotation.h), then the affine quantiser at four bits over groups of
// the rotated row, laid out as scheme_token.cc does. A row escapes as a whole, because its rotated
// values all depend on all of it.
#include <atomic>
#include <cstring>
#include <vector>

#include "kernels/escapes.h"
#include "kernels/parallel.h"
#include "kernels/schemes.h"
#include "kernels/signs.h"
#include "kernels/token_rows.h"

namespace blatam {
namespace {

constexpr int kBits = 4;

// The parts of a payload. As the units that escape: rows.
class Layout {
 public:
  explicit Layout(const Shape& shape) : shape_(shape), rows_(shape) {}

  uint64_t rows() const { return rows_.rows(); }
  uint64_t row_values() const { return rows_.row_values(); }
  uint64_t row_code_bytes() const { return code_bytes(kBits, rows_.row_values()); }
  uint64_t row_meta_bytes() const { return rows_.row_groups() * kMetaBytes; }
  uint64_t meta_begin() const { return plane_end(rows() * row_code_bytes()); }
  uint64_t bytes() const { return meta_begin() + rows() * row_meta_bytes(); }

  uint64_t row_heads() const { return rows_.row_values() / shape_.head_dim; }
  uint64_t token(uint64_t row) const { return rows_.token_of(row); }
  uint64_t head(uint64_t row, uint64_t i) const { return rows_.head_of(row) + i; }

  uint64_t count() const { return rows(); }
  uint64_t length(uint64_t /*row*/) const { return rows_.row_values(); }
  Cell cell(uint64_t row, uint64_t i) const {
    return {token(row), head(row, i / shape_.head_dim), i % shape_.head_dim};
  }

 private:
  Shape shape_;
  TokenRows rows_;
};

uint64_t payload_bytes(const Shape& shape, Dtype /*dtype*/) { return Layout(shape).bytes(); }

bool rotate_row(const Job& job, const Source& source, const Layout& layout, uint64_t row,
                const uint32_t* signs, float* rotated) {
  const auto rotate = job.kernels.rotation(source.dtype).rotate;
  for (uint64_t i = 0; i < layout.row_heads(); ++i)
    if (!rotate(source.at(layout.token(row), layout.head(row, i), 0), signs, source.shape.head_dim,
                rotated + i * source.shape.head_dim))
      return false;
  return true;
}

uint64_t encode(const Job& job, const Source& source, std::span<uint8_t> payload) {
  const Layout layout(source.shape);
  const uint64_t fixed = layout.bytes();
  if (fixed > payload.size()) return fixed;
  const auto quantise = job.kernels.rotation(source.dtype).group.quantise;
  const std::vector<uint32_t> signs = signs_of(job.seed, source.shape.head_dim);
  uint8_t* const meta = payload.data() + layout.meta_begin();
  const uint64_t codes_end = layout.rows() * layout.row_code_bytes();
  std::memset(payload.data() + codes_end, 0, layout.meta_begin() - codes_end);
  std::atomic<bool> escaped = false;
  in_parallel(job.threads, layout.rows(), [&](uint64_t begin, uint64_t end) {
    std::vector<float> rotated(layout.row_values());
    for (uint64_t row = begin; row < end; ++row) {
      uint8_t* const row_codes = payload.data() + row * layout.row_code_bytes();
      uint8_t* const row_meta = meta + row * layout.row_meta_bytes();
      if (rotate_row(job, source, layout, row, signs.data(), rotated.data()) &&
          !quantise(reinterpret_cast<const uint8_t*>(rotated.data()), layout.row_values(),
                    row_codes, row_meta, false))
        continue;
      std::memset(row_codes, 0, layout.row_code_bytes());
      for (uint64_t i = 0; i < layout.row_meta_bytes(); i += kMetaBytes)
        store_bits<uint32_t>(row_meta + i, Bf16::kNan);
      escaped = true;
    }
  });
  if (!escaped) return fixed;
  const auto flagged = [&](uint64_t row) {
    return load_bits<uint16_t>(meta + row * layout.row_meta_bytes()) == Bf16::kNan;
  };
  return put_escapes(source, layout, flagged, payload, fixed);
}

const char* decode(const Job& job, std::span<const uint8_t> payload, const Target& target) {
  const Layout layout(target.shape);
  const RotationKernels& kernels = job.kernels.rotation(target.dtype);
  const std::vector<uint32_t> signs = signs_of(job.seed, target.shape.head_dim);
  const uint8_t* const meta = payload.data() + layout.meta_begin();
  in_parallel(job.threads, layout.rows(), [&](uint64_t begin, uint64_t end) {
    std::vector<float> rotated(layout.row_values());
    for (uint64_t row = begin; row < end; ++row) {
      kernels.group.dequantise(payload.data() + row * layout.row_code_bytes(),
                               meta + row * layout.row_meta_bytes(), layout.row_values(),
                               reinterpret_cast<uint8_t*>(rotated.data()), false);
      for (uint64_t i = 0; i < layout.row_heads(); ++i)
        kernels.unrotate(rotated.data() + i * target.shape.head_dim, signs.data(),
                         target.shape.head_dim,
                         target.at(layout.token(row), layout.head(row, i), 0));
    }
  });
  return take_escapes(payload.subspan(layout.bytes()), layout, target);
}

}  // namespace

const Scheme kRotated4 = {kGroup, false, payload_bytes, payload_bytes, encode, decode};

}  // namespace blatam
