// `int8`, `int4` and what is built from them: the affine quantiser over groups of 64 along a row of
// token_rows.h. Payload: the codes of all rows, then, from the next multiple of 16, the metadata of
// all groups; then the section of escapes.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <vector>

#include "kernels/escapes.h"
#include "kernels/parallel.h"
#include "kernels/schemes.h"
#include "kernels/seal.h"
#include "kernels/token_rows.h"

namespace blatam {
namespace {

template <int kBits>
struct Layout : TokenRows {
  explicit Layout(const Shape& shape) : TokenRows(shape) {}

  uint64_t row_code_bytes() const { return code_bytes(kBits, row_values()); }
  uint64_t row_meta_bytes() const { return row_groups() * kMetaBytes; }
  uint64_t meta_begin() const { return plane_end(rows() * row_code_bytes()); }
  uint64_t bytes() const { return meta_begin() + rows() * row_meta_bytes(); }
};

template <int kBits>
uint64_t payload_bytes(const Shape& shape, Dtype /*dtype*/) {
  return Layout<kBits>(shape).bytes();
}

// Calls work(row, rows, values) for stretches of rows whose values follow one another, `values`
// being where the first one begins.
template <int kBits, class Byte, class Work>
void each_stretch(const Layout<kBits>& layout, const View<Byte>& tensor, uint64_t begin,
                  uint64_t end, const Work& work) {
  const bool tokens_join = tensor.contiguous() && layout.rows_join();
  const bool heads_join = tensor.heads_adjoin() && layout.rows_join() && !layout.whole_tokens();
  for (uint64_t row = begin; row < end;) {
    uint64_t rows = 1;
    if (tokens_join) {
      rows = end - row;
    } else if (heads_join) {
      rows = std::min(end - row, tensor.shape.kv_heads - layout.head_of(row));
    }
    work(row, rows, tensor.at(layout.token_of(row), layout.head_of(row), 0));
    row += rows;
  }
}

// True for rows that a tensor holds in pieces, head by head: they pass through a buffer, in one
// thread, since nothing here is worth more.
template <int kBits>
bool in_pieces(const Layout<kBits>& layout, bool heads_adjoin) {
  return layout.whole_tokens() && !heads_adjoin;
}

template <int kBits>
Planes planes_of(const Layout<kBits>& layout, const uint8_t* payload) {
  return {payload, layout.row_code_bytes(), layout.row_meta_bytes(), layout.rows(),
          layout.meta_begin()};
}

template <int kBits>
uint64_t encode(const Job& job, const Source& source, std::span<uint8_t> payload) {
  const Layout<kBits> layout(source.shape);
  const uint64_t fixed = layout.bytes();
  if (fixed > payload.size()) return fixed;
  const auto quantise = job.kernels.group(kBits, source.dtype).quantise;
  uint8_t* const codes = payload.data();
  uint8_t* const meta = codes + layout.meta_begin();
  const uint64_t head_bytes = source.head_row_bytes();
  const bool pieces = in_pieces(layout, source.heads_adjoin());
  std::fill(codes + layout.rows() * layout.row_code_bytes(), meta, uint8_t{0});
  std::vector<uint8_t> scratch(pieces ? head_bytes * source.shape.kv_heads : 0);
  // What the checksum is to see soon should not go around the caches.
  const bool stream = job.seal == nullptr && fixed > kStreamBytes;
  const unsigned threads = pieces ? 1 : job.threads;
  PlaneSums sums(job.seal, planes_of(layout, codes), threads);
  std::atomic<bool> escaped = false;
  in_shares(threads, layout.rows(), [&](unsigned share, uint64_t begin, uint64_t end) {
    bool mine = false;
    const uint64_t at_once = sums.rows_at_once(layout.row_values());
    for (uint64_t first = begin; first < end;) {
      const uint64_t last = first + std::min(at_once, end - first);
      each_stretch(
          layout, source, first, last, [&](uint64_t row, uint64_t rows, const uint8_t* values) {
            if (pieces) {
              for (uint64_t head = 0; head < source.shape.kv_heads; ++head)
                std::memcpy(scratch.data() + head * head_bytes, source.at(row, head, 0),
                            head_bytes);
              values = scratch.data();
            }
            mine |=
                quantise(values, rows * layout.row_values(), codes + row * layout.row_code_bytes(),
                         meta + row * layout.row_meta_bytes(), stream);
          });
      sums.add(share, first, last);
      first = last;
    }
    if (mine) escaped = true;
  });
  uint64_t bytes = fixed;
  if (escaped) {
    const auto flagged = [&](uint64_t group) {
      return load_bits<uint16_t>(meta + group * kMetaBytes) == Bf16::kNan;
    };
    bytes = put_escapes(source, layout, flagged, payload, fixed);
  }
  if (bytes <= payload.size()) sums.finish(bytes);
  return bytes;
}

template <int kBits>
const char* decode(const Job& job, std::span<const uint8_t> payload, const Target& target) {
  const Layout<kBits> layout(target.shape);
  const auto dequantise = job.kernels.group(kBits, target.dtype).dequantise;
  const uint8_t* const codes = payload.data();
  const uint8_t* const meta = codes + layout.meta_begin();
  const uint64_t head_bytes = target.head_row_bytes();
  const bool pieces = in_pieces(layout, target.heads_adjoin());
  const bool stream = target.shape.values() * dtype_bytes(target.dtype) > kStreamBytes;
  std::vector<uint8_t> scratch(pieces ? head_bytes * target.shape.kv_heads : 0);
  const unsigned threads = pieces ? 1 : job.threads;
  PlaneSums sums(job.seal, planes_of(layout, codes), threads);
  in_shares(threads, layout.rows(), [&](unsigned share, uint64_t begin, uint64_t end) {
    const uint64_t at_once = sums.rows_at_once(layout.row_values());
    for (uint64_t first = begin; first < end;) {
      const uint64_t last = first + std::min(at_once, end - first);
      each_stretch(layout, target, first, last, [&](uint64_t row, uint64_t rows, uint8_t* values) {
        dequantise(codes + row * layout.row_code_bytes(), meta + row * layout.row_meta_bytes(),
                   rows * layout.row_values(), pieces ? scratch.data() : values, stream && !pieces);
        if (!pieces) return;
        for (uint64_t head = 0; head < target.shape.kv_heads; ++head)
          std::memcpy(target.at(row, head, 0), scratch.data() + head * head_bytes, head_bytes);
      });
      sums.add(share, first, last);  // now that they are in the cache
      first = last;
    }
  });
  sums.finish(payload.size());
  return take_escapes(payload.subspan(layout.bytes()), layout, target);
}

}  // namespace

const Scheme kToken8 = {kGroup,    false, payload_bytes<8>, payload_bytes<8>, encode<8>,
                        decode<8>, true};
const Scheme kToken4 = {kGroup,    false, payload_bytes<4>, payload_bytes<4>, encode<4>,
                        decode<4>, true};

}  // namespace blatam
