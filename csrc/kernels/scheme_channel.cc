// Keys of `int8_kc` and `int4_kc`: the affine quantiser over each channel of a page of 64 tokens,
// so that a channel far from the others has a scale of its own. Payload: the codes of all pages,
// head by head; then, from the next multiple of 16, their metadata; then, again from a multiple of
// 16, the tokens that fill no page, as they are; then the section of escapes.
#include <atomic>
#include <cstring>

#include "kernels/escapes.h"
#include "kernels/parallel.h"
#include "kernels/schemes.h"
#include "kernels/seal.h"
#include "kernels/token_rows.h"

namespace blatam {
namespace {

// The parts of a payload. As the units that escape: the channels of a page, head by head.
template <int kBits>
class Pages {
 public:
  Pages(const Shape& shape, Dtype dtype) : shape_(shape), dtype_(dtype) {}

  // A page of one head.
  uint64_t panels() const { return shape_.tokens / kPage * shape_.kv_heads; }
  uint64_t panel_code_bytes() const { return kPage * kBits / 8 * uint64_t{shape_.head_dim}; }
  uint64_t panel_meta_bytes() const { return kMetaBytes * uint64_t{shape_.head_dim}; }
  uint64_t meta_begin() const { return plane_end(panels() * panel_code_bytes()); }
  uint64_t tail_begin() const { return plane_end(meta_begin() + panels() * panel_meta_bytes()); }
  uint64_t tail_tokens() const { return shape_.tokens % kPage; }
  uint64_t head_row_bytes() const { return shape_.head_dim * uint64_t{dtype_bytes(dtype_)}; }
  uint64_t bytes() const {
    return tail_begin() + tail_tokens() * shape_.kv_heads * head_row_bytes();
  }

  uint64_t first_token(uint64_t panel) const { return panel / shape_.kv_heads * kPage; }
  uint64_t head(uint64_t panel) const { return panel % shape_.kv_heads; }

  uint64_t count() const { return panels() * shape_.head_dim; }
  uint64_t length(uint64_t /*channel*/) const { return kPage; }
  Cell cell(uint64_t channel, uint64_t i) const {
    const uint64_t panel = channel / shape_.head_dim;
    return {first_token(panel) + i, head(panel), channel % shape_.head_dim};
  }

 private:
  Shape shape_;
  Dtype dtype_;
};

template <int kBits>
uint64_t payload_bytes(const Shape& shape, Dtype dtype) {
  return Pages<kBits>(shape, dtype).bytes();
}

// Calls copy(tensor memory, offset in the tail) for each head of each token that fills no page.
template <int kBits, class Byte, class Copy>
void each_tail_row(const Pages<kBits>& pages, const View<Byte>& tensor, const Copy& copy) {
  const uint64_t first = tensor.shape.tokens - pages.tail_tokens();
  uint64_t offset = pages.tail_begin();
  for (uint64_t token = first; token < tensor.shape.tokens; ++token) {
    for (uint64_t head = 0; head < tensor.shape.kv_heads; ++head) {
      copy(tensor.at(token, head, 0), offset);
      offset += pages.head_row_bytes();
    }
  }
}

template <int kBits>
Planes planes_of(const Pages<kBits>& pages, const uint8_t* payload) {
  return {payload, pages.panel_code_bytes(), pages.panel_meta_bytes(), pages.panels(),
          pages.meta_begin()};
}

template <int kBits>
uint64_t encode(const Job& job, const Source& source, std::span<uint8_t> payload) {
  const Pages<kBits> pages(source.shape, source.dtype);
  const uint64_t fixed = pages.bytes();
  if (fixed > payload.size()) return fixed;
  uint8_t* const codes = payload.data();
  uint8_t* const meta = codes + pages.meta_begin();
  const uint64_t codes_end = pages.panels() * pages.panel_code_bytes();
  const uint64_t meta_end = pages.meta_begin() + pages.panels() * pages.panel_meta_bytes();
  std::memset(codes + codes_end, 0, pages.meta_begin() - codes_end);
  std::memset(codes + meta_end, 0, pages.tail_begin() - meta_end);
  const auto quantise = job.kernels.page(kBits, source.dtype).quantise;
  // What the checksum is to see soon should not go around the caches.
  const bool stream = job.seal == nullptr && fixed > kStreamBytes;
  PlaneSums sums(job.seal, planes_of(pages, codes), job.threads);
  std::atomic<bool> escaped = false;
  in_shares(job.threads, pages.panels(), [&](unsigned share, uint64_t begin, uint64_t end) {
    bool mine = false;
    for (uint64_t panel = begin; panel < end; ++panel) {
      mine |=
          quantise(source.at(pages.first_token(panel), pages.head(panel), 0), source.token_bytes,
                   source.shape.head_dim, codes + panel * pages.panel_code_bytes(),
                   meta + panel * pages.panel_meta_bytes(), stream);
      sums.add(share, panel, panel + 1);
    }
    if (mine) escaped = true;
  });
  each_tail_row(pages, source, [&](const uint8_t* from, uint64_t offset) {
    std::memcpy(payload.data() + offset, from, pages.head_row_bytes());
  });
  uint64_t bytes = fixed;
  if (escaped) {
    const auto flagged = [&](uint64_t channel) {
      const uint64_t panel = channel / source.shape.head_dim;
      return load_bits<uint16_t>(meta + panel * pages.panel_meta_bytes() +
                                 channel % source.shape.head_dim * 2) == Bf16::kNan;
    };
    bytes = put_escapes(source, pages, flagged, payload, fixed);
  }
  if (bytes <= payload.size()) sums.finish(bytes);
  return bytes;
}

template <int kBits>
const char* decode(const Job& job, std::span<const uint8_t> payload, const Target& target) {
  const Pages<kBits> pages(target.shape, target.dtype);
  const uint8_t* const codes = payload.data();
  const uint8_t* const meta = codes + pages.meta_begin();
  const auto dequantise = job.kernels.page(kBits, target.dtype).dequantise;
  const bool stream = target.shape.values() * dtype_bytes(target.dtype) > kStreamBytes;
  PlaneSums sums(job.seal, planes_of(pages, codes), job.threads);
  in_shares(job.threads, pages.panels(), [&](unsigned share, uint64_t begin, uint64_t end) {
    for (uint64_t panel = begin; panel < end; ++panel) {
      dequantise(codes + panel * pages.panel_code_bytes(), meta + panel * pages.panel_meta_bytes(),
                 target.token_bytes, target.shape.head_dim,
                 target.at(pages.first_token(panel), pages.head(panel), 0), stream);
      sums.add(share, panel, panel + 1);  // now that it is in the cache
    }
  });
  each_tail_row(pages, target, [&](uint8_t* to, uint64_t offset) {
    std::memcpy(to, payload.data() + offset, pages.head_row_bytes());
  });
  sums.finish(payload.size());
  return take_escapes(payload.subspan(pages.bytes()), pages, target);
}

}  // namespace

const Scheme kChannel8 = {kPage,     false, payload_bytes<8>, payload_bytes<8>, encode<8>,
                          decode<8>, true};
const Scheme kChannel4 = {kPage,     false, payload_bytes<4>, payload_bytes<4>, encode<4>,
                          decode<4>, true};

}  // namespace blatam
