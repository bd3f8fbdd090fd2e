// Formats that other engines store, row by row: `fp8_e4m3` (a byte a value, scale 1),
// `int8_per_token_head` (codes; from the next multiple of 16, a float32 scale a row) and `q8_0`
// (blocks of 32 with an fp16 scale each, as ggml lays them out). The section of escapes follows.
#include <algorithm>
#include <atomic>
#include <cstring>

#include "kernels/exchange.h"
#include "kernels/head_rows.h"
#include "kernels/parallel.h"
#include "kernels/schemes.h"
#include "kernels/token_rows.h"

namespace blatam {
namespace {

struct Fp8 : HeadRows {
  using HeadRows::HeadRows;
  static constexpr uint16_t kGroupSize = 0;

  static const GroupKernels& kernels(const Kernels& all, Dtype dtype) {
    return all.exchange[static_cast<size_t>(dtype)].fp8;
  }
  uint64_t row_code_bytes() const { return shape_.head_dim; }
  uint64_t codes_end() const { return rows() * row_code_bytes(); }
  uint64_t meta_begin() const { return codes_end(); }
  uint64_t row_meta_bytes() const { return 0; }
  uint64_t bytes() const { return codes_end(); }
  bool escapes(const uint8_t* payload, uint64_t row) const {
    return payload[row * row_code_bytes()] == kFp8Nan;
  }
};

struct Head8 : HeadRows {
  using HeadRows::HeadRows;
  static constexpr uint16_t kGroupSize = 0;  // as long as a head

  static const GroupKernels& kernels(const Kernels& all, Dtype dtype) {
    return all.exchange[static_cast<size_t>(dtype)].head8;
  }
  uint64_t row_code_bytes() const { return shape_.head_dim; }
  uint64_t codes_end() const { return rows() * row_code_bytes(); }
  uint64_t meta_begin() const { return plane_end(codes_end()); }
  uint64_t row_meta_bytes() const { return 4; }
  uint64_t bytes() const { return meta_begin() + rows() * row_meta_bytes(); }
  bool escapes(const uint8_t* payload, uint64_t row) const {
    return load_bits<uint32_t>(payload + meta_begin() + 4 * row) == kFp32Nan;
  }
};

// As the units that escape: blocks.
struct Q8 : HeadRows {
  using HeadRows::HeadRows;
  static constexpr uint16_t kGroupSize = kQ8Block;

  static const GroupKernels& kernels(const Kernels& all, Dtype dtype) {
    return all.exchange[static_cast<size_t>(dtype)].q8;
  }
  uint64_t row_blocks() const { return (shape_.head_dim + uint64_t{kQ8Block} - 1) / kQ8Block; }
  uint64_t row_code_bytes() const { return shape_.head_dim + 2 * row_blocks(); }
  uint64_t codes_end() const { return rows() * row_code_bytes(); }
  uint64_t meta_begin() const { return codes_end(); }
  uint64_t row_meta_bytes() const { return 0; }
  uint64_t bytes() const { return codes_end(); }

  uint64_t count() const { return rows() * row_blocks(); }
  uint64_t length(uint64_t block) const {
    return std::min<uint64_t>(kQ8Block, shape_.head_dim - block % row_blocks() * kQ8Block);
  }
  Cell cell(uint64_t block, uint64_t i) const {
    const uint64_t row = block / row_blocks();
    return {token(row), head(row), block % row_blocks() * kQ8Block + i};
  }
  bool escapes(const uint8_t* payload, uint64_t block) const {
    const uint64_t row = block / row_blocks();
    return load_bits<uint16_t>(payload + row * row_code_bytes() +
                               block % row_blocks() * (kQ8Block + 2)) == Fp16::kNan;
  }
};

template <class Layout>
uint64_t payload_bytes(const Shape& shape, Dtype /*dtype*/) {
  return Layout(shape).bytes();
}

template <class Layout>
uint64_t encode(const Job& job, const Source& source, std::span<uint8_t> payload) {
  const Layout layout(source.shape);
  const uint64_t fixed = layout.bytes();
  if (fixed > payload.size()) return fixed;
  const auto quantise = Layout::kernels(job.kernels, source.dtype).quantise;
  uint8_t* const codes = payload.data();
  uint8_t* const meta = codes + layout.meta_begin();
  std::memset(codes + layout.codes_end(), 0, layout.meta_begin() - layout.codes_end());
  std::atomic<bool> escaped = false;
  in_parallel(job.threads, layout.rows(), [&](uint64_t begin, uint64_t end) {
    bool mine = false;
    for (uint64_t row = begin; row < end; ++row)
      mine |= quantise(source.at(layout.token(row), layout.head(row), 0), source.shape.head_dim,
                       codes + row * layout.row_code_bytes(), meta + row * layout.row_meta_bytes(),
                       false);
    if (mine) escaped = true;
  });
  if (!escaped) return fixed;
  const auto flagged = [&](uint64_t unit) { return layout.escapes(codes, unit); };
  return put_escapes(source, layout, flagged, payload, fixed);
}

template <class Layout>
const char* decode(const Job& job, std::span<const uint8_t> payload, const Target& target) {
  const Layout layout(target.shape);
  const auto dequantise = Layout::kernels(job.kernels, target.dtype).dequantise;
  const uint8_t* const codes = payload.data();
  const uint8_t* const meta = codes + layout.meta_begin();
  in_parallel(job.threads, layout.rows(), [&](uint64_t begin, uint64_t end) {
    for (uint64_t row = begin; row < end; ++row)
      dequantise(codes + row * layout.row_code_bytes(), meta + row * layout.row_meta_bytes(),
                 target.shape.head_dim, target.at(layout.token(row), layout.head(row), 0), false);
  });
  return take_escapes(payload.subspan(layout.bytes()), layout, target);
}

template <class Layout>
constexpr Scheme scheme() {
  return {Layout::kGroupSize,    false,          payload_bytes<Layout>,
          payload_bytes<Layout>, encode<Layout>, decode<Layout>};
}

}  // namespace

const Scheme kFp8 = scheme<Fp8>();
const Scheme kHead8 = scheme<Head8>();
const Scheme kQ8 = scheme<Q8>();

}  // namespace blatam
