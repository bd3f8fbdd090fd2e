// `int4_rot`: each head rotated (rotation.h), then the affine quantiser at four bits over groups of
// the rotated row, laid out as scheme_token.cc does. A row escapes as a whole, because its rotated
// values all depend on all of it.
#include <algorithm>
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
constexpr uint64_t kAtOnce = 2048;  // values

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

  bool rows_join() const { return rows_.rows_join(); }
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

// Rows that are rotated before any is quantised: enough for the kernels to work on many groups at
// once, few enough to stay in the first cache.
uint64_t rows_at_once(const Layout& layout) {
  return layout.rows_join() ? std::max<uint64_t>(1, kAtOnce / layout.row_values()) : 1;
}

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

  // False if one of the rows escapes.
  const auto encode_rows = [&](uint64_t row, uint64_t rows, float* rotated) {
    for (uint64_t i = 0; i < rows; ++i)
      if (!rotate_row(job, source, layout, row + i, signs.data(),
                      rotated + i * layout.row_values()))
        return false;
    return !quantise(reinterpret_cast<const uint8_t*>(rotated), rows * layout.row_values(),
                     payload.data() + row * layout.row_code_bytes(),
                     meta + row * layout.row_meta_bytes(), false);
  };
  const auto flag_row = [&](uint64_t row) {
    std::memset(payload.data() + row * layout.row_code_bytes(), 0, layout.row_code_bytes());
    for (uint64_t i = 0; i < layout.row_meta_bytes(); i += kMetaBytes)
      store_bits<uint32_t>(meta + row * layout.row_meta_bytes() + i, Bf16::kNan);
    escaped = true;
  };
  const uint64_t at_once = rows_at_once(layout);
  in_parallel(job.threads, layout.rows(), [&](uint64_t begin, uint64_t end) {
    std::vector<float> rotated(at_once * layout.row_values());
    for (uint64_t row = begin; row < end; row += at_once) {
      const uint64_t rows = std::min(at_once, end - row);
      if (encode_rows(row, rows, rotated.data())) continue;
      for (uint64_t i = row; i < row + rows; ++i)
        if (!encode_rows(i, 1, rotated.data())) flag_row(i);
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
  const uint64_t at_once = rows_at_once(layout);
  in_parallel(job.threads, layout.rows(), [&](uint64_t begin, uint64_t end) {
    std::vector<float> rotated(at_once * layout.row_values());
    for (uint64_t first = begin; first < end; first += at_once) {
      const uint64_t rows = std::min(at_once, end - first);
      kernels.group.dequantise(payload.data() + first * layout.row_code_bytes(),
                               meta + first * layout.row_meta_bytes(), rows * layout.row_values(),
                               reinterpret_cast<uint8_t*>(rotated.data()), false);
      float* head = rotated.data();
      for (uint64_t row = first; row < first + rows; ++row) {
        for (uint64_t i = 0; i < layout.row_heads(); ++i, head += target.shape.head_dim)
          kernels.unrotate(head, signs.data(), target.shape.head_dim,
                           target.at(layout.token(row), layout.head(row, i), 0));
      }
    }
  });
  return take_escapes(payload.subspan(layout.bytes()), layout, target);
}

}  // namespace

const Scheme kRotated4 = {kGroup, false, payload_bytes, payload_bytes, encode, decode};

}  // namespace blatam
