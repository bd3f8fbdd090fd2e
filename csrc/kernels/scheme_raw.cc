// `raw`: the values as they are, [tokens][kv_heads][head_dim] without gaps.
#include <algorithm>
#include <cstring>

#include "kernels/parallel.h"
#include "kernels/schemes.h"
#include "kernels/seal.h"

namespace blatam {
namespace {

uint64_t raw_bytes(const Shape& shape, Dtype dtype) { return shape.values() * dtype_bytes(dtype); }

// Copies tokens [first, last) between a tensor and a compact array, in whichever direction `copy`
// does.
template <class Byte, class Copy>
void each_row(const View<Byte>& tensor, uint64_t first, uint64_t last, const Copy& copy) {
  const uint64_t head_bytes = tensor.head_row_bytes();
  const uint64_t token_bytes = head_bytes * tensor.shape.kv_heads;
  if (first == last) return;
  if (tensor.contiguous()) {
    copy(tensor.at(first, 0, 0), first * token_bytes, (last - first) * token_bytes);
    return;
  }
  for (uint64_t token = first; token < last; ++token) {
    if (tensor.heads_adjoin()) {
      copy(tensor.at(token, 0, 0), token * token_bytes, token_bytes);
      continue;
    }
    for (uint64_t head = 0; head < tensor.shape.kv_heads; ++head)
      copy(tensor.at(token, head, 0), token * token_bytes + head * head_bytes, head_bytes);
  }
}

// Every token, summed while its bytes are in the cache.
template <class Byte, class Copy>
void each_token(const Job& job, const View<Byte>& tensor, const uint8_t* payload,
                const Copy& copy) {
  const uint64_t values = uint64_t{tensor.shape.kv_heads} * tensor.shape.head_dim;
  const uint64_t bytes = raw_bytes(tensor.shape, tensor.dtype);
  PlaneSums sums(job.seal,
                 {payload, values * dtype_bytes(tensor.dtype), 0, tensor.shape.tokens, bytes},
                 job.threads);
  in_shares(job.threads, tensor.shape.tokens, [&](unsigned share, uint64_t begin, uint64_t end) {
    const uint64_t at_once = sums.rows_at_once(values);
    for (uint64_t first = begin; first < end;) {
      const uint64_t last = first + std::min(at_once, end - first);
      each_row(tensor, first, last, copy);
      sums.add(share, first, last);
      first = last;
    }
  });
  sums.finish(bytes);
}

uint64_t encode(const Job& job, const Source& source, std::span<uint8_t> payload) {
  const uint64_t bytes = raw_bytes(source.shape, source.dtype);
  if (bytes > payload.size()) return bytes;
  each_token(job, source, payload.data(), [&](const uint8_t* from, uint64_t offset, uint64_t size) {
    std::memcpy(payload.data() + offset, from, size);
  });
  return bytes;
}

const char* decode(const Job& job, std::span<const uint8_t> payload, const Target& target) {
  if (payload.size() != raw_bytes(target.shape, target.dtype)) return "bytes after the values";
  each_token(job, target, payload.data(), [&](uint8_t* to, uint64_t offset, uint64_t size) {
    std::memcpy(to, payload.data() + offset, size);
  });
  return nullptr;
}

}  // namespace

void copy_values(const Source& source, const Target& target) {
  const uint64_t bytes = source.head_row_bytes();
  for (uint64_t token = 0; token < source.shape.tokens; ++token)
    for (uint64_t head = 0; head < source.shape.kv_heads; ++head)
      std::memcpy(target.at(token, head, 0), source.at(token, head, 0), bytes);
}

const Scheme kRaw = {0, true, raw_bytes, raw_bytes, encode, decode, true};

}  // namespace blatam
