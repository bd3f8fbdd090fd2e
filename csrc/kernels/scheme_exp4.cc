// `exp4`: four bits of exponent for each value, below the largest of its chunk of 1,024. Payload:
// one byte, how many of fp32's last two bytes are stored; a line for each chunk; the chunks'
// bodies; the escapes of all chunks. Everything but the escapes is where the number of values puts
// it, and a line says how long its chunk's escapes are.
#include <atomic>

#include "kernels/arithmetic.h"
#include "kernels/lossless.h"
#include "kernels/parallel.h"
#include "kernels/pieces.h"
#include "kernels/schemes.h"
#include "kernels/seal.h"
#include "kernels/value_order.h"

namespace blatam {
namespace {

// Chunks that a tensor with gaps passes through a buffer at a time.
constexpr uint64_t kChunksInBuffer = 16;

struct Layout {
  Dtype dtype;
  uint64_t values;
  size_t tail_bytes;

  uint64_t chunks() const { return (values + kChunk - 1) / kChunk; }
  uint64_t value_of(uint64_t chunk) const { return std::min(chunk * kChunk, values); }
  uint64_t body_bytes(uint64_t count) const {
    return count / kChunk * exp4_body_bytes(dtype, tail_bytes, kChunk) +
           exp4_body_bytes(dtype, tail_bytes, count % kChunk);
  }
  uint64_t lines_begin() const { return 1; }
  uint64_t line_of(uint64_t chunk) const { return lines_begin() + chunk * kChunkLine; }
  uint64_t body_of(uint64_t chunk) const { return line_of(chunks()) + body_bytes(value_of(chunk)); }
  uint64_t escapes_begin() const { return body_of(chunks()); }
  // The most that the escapes of the chunks before `chunk` take.
  uint64_t escapes_room(uint64_t chunk) const {
    return value_of(chunk) * (1 + tail_bytes) + value_of(chunk) - body_bytes(value_of(chunk));
  }
};

// The checksum of a payload: of its first byte, and then of lines and bodies as of two planes,
// whose rows are whole chunks. A last chunk that is short, and the escapes, follow them.
class ChunkSums {
 public:
  ChunkSums(Seal* seal, const Layout& layout, const uint8_t* payload, unsigned shares)
      : seal_(seal),
        payload_(payload),
        whole_(layout.values / kChunk),
        sums_(seal,
              {payload + layout.lines_begin(), kChunkLine,
               exp4_body_bytes(layout.dtype, layout.tail_bytes, kChunk), whole_,
               layout.chunks() * kChunkLine},
              shares) {}

  uint64_t chunks_at_once() const { return sums_.rows_at_once(kChunk); }
  void add(unsigned share, uint64_t begin, uint64_t end) {
    sums_.add(share, std::min(begin, whole_), std::min(end, whole_));
  }
  void finish(uint64_t bytes) {
    if (seal_ == nullptr) return;
    sums_.finish(bytes - 1);
    const Checksum& sum = seal_->checksum;
    seal_->crc = sum.combine(sum.extend(0, payload_, 1), seal_->crc, bytes - 1);
  }

 private:
  Seal* seal_;
  const uint8_t* payload_;
  uint64_t whole_;
  PlaneSums sums_;
};

uint64_t least_bytes(const Shape& shape, Dtype dtype) {
  return Layout{dtype, shape.values(), 0}.escapes_begin();
}

uint64_t most_bytes(const Shape& shape, Dtype dtype) {
  const Layout layout = {dtype, shape.values(), dtype == Dtype::fp32 ? size_t{2} : size_t{0}};
  return layout.escapes_begin() + layout.escapes_room(layout.chunks());
}

// How many of fp32's last two bytes are needed: none for values that were once bf16.
size_t tail_bytes_of(const Source& source) {
  if (source.dtype != Dtype::fp32) return 0;
  uint32_t seen = 0;
  uint8_t values[4 * kChunk];
  for (uint64_t begin = 0; begin < source.shape.values() && (seen & 0xff) == 0; begin += kChunk) {
    const uint64_t end = std::min(begin + kChunk, source.shape.values());
    gather(source, begin, end, values);
    for (uint64_t i = 0; i < end - begin; ++i) seen |= load_bits<uint32_t>(values + 4 * i);
  }
  return (seen & 0xff) != 0 ? 2 : (seen & 0xff00) != 0 ? 1 : 0;
}

uint64_t encode_into(const Job& job, const Source& source, uint8_t* payload) {
  const Layout layout = {source.dtype, source.shape.values(), tail_bytes_of(source)};
  const Exp4Kernels& kernels =
      lossless_for(job.kernels.isa).exp4[static_cast<size_t>(source.dtype)];
  // What the checksum is to see soon should not go around the caches.
  const bool stream = job.seal == nullptr && layout.escapes_begin() > kStreamBytes;
  payload[0] = static_cast<uint8_t>(layout.tail_bytes);
  uint8_t* const escapes = payload + layout.escapes_begin();
  Pieces pieces(job.threads);
  ChunkSums sums(job.seal, layout, payload, job.threads);
  const uint64_t at_once =
      std::min(sums.chunks_at_once(), source.contiguous() ? UINT64_MAX : kChunksInBuffer);
  in_shares(job.threads, layout.chunks(), [&](unsigned share, uint64_t begin, uint64_t end) {
    const uint64_t room = layout.escapes_room(begin);
    uint64_t used = 0;
    uint8_t buffer[4 * kChunk * kChunksInBuffer];
    for (uint64_t first = begin; first < end;) {
      const uint64_t last = first + std::min(at_once, end - first);
      const uint8_t* values = buffer;
      if (source.contiguous()) {
        values = source.data + first * kChunk * dtype_bytes(source.dtype);
      } else {
        gather(source, layout.value_of(first), layout.value_of(last), buffer);
      }
      used += kernels.encode(values, layout.value_of(last) - layout.value_of(first),
                             layout.tail_bytes, payload + layout.line_of(first),
                             payload + layout.body_of(first), escapes + room + used, stream);
      sums.add(share, first, last);
      first = last;
    }
    pieces.add(room, used);
  });
  const uint64_t bytes = layout.escapes_begin() + pieces.join(escapes);
  sums.finish(bytes);
  return bytes;
}

uint64_t encode(const Job& job, const Source& source, std::span<uint8_t> payload) {
  return write_within(payload, most_bytes(source.shape, source.dtype),
                      [&](uint8_t* output) { return encode_into(job, source, output); });
}

// The bytes of escapes that a line announces; more than any chunk has where it is impossible.
uint64_t escape_bytes(const Layout& layout, const uint8_t* lines, uint64_t chunk) {
  const uint64_t count = layout.value_of(chunk + 1) - layout.value_of(chunk);
  const uint64_t excess = raw_chunk_excess(layout.dtype, count);
  const uint64_t stored = load_bits<uint16_t>(lines + chunk * kChunkLine + 1);
  if (stored == kRawChunk) return excess;
  return stored * kEscapeBytes <= excess ? stored * kEscapeBytes : uint64_t{kChunk};
}

const char* decode(const Job& job, std::span<const uint8_t> payload, const Target& target) {
  const Layout layout = {target.dtype, target.shape.values(), payload[0]};
  if (layout.tail_bytes > (target.dtype == Dtype::fp32 ? 2u : 0u)) return "an impossible exp4 tail";
  if (payload.size() < layout.escapes_begin()) return "exp4 chunks are cut short";
  const uint8_t* const lines = payload.data() + layout.lines_begin();
  uint64_t escapes = 0;
  for (uint64_t chunk = 0; chunk < layout.chunks(); ++chunk) {
    const uint64_t bytes = escape_bytes(layout, lines, chunk);
    if (bytes == kChunk) return "an exp4 chunk with too many escapes";
    escapes += bytes;
  }
  if (payload.size() - layout.escapes_begin() != escapes) return "exp4 escapes that do not fit";

  const Exp4Kernels& kernels =
      lossless_for(job.kernels.isa).exp4[static_cast<size_t>(target.dtype)];
  const bool stream = layout.values * dtype_bytes(target.dtype) > kStreamBytes;
  std::atomic<bool> good = true;
  ChunkSums sums(job.seal, layout, payload.data(), job.threads);
  const uint64_t at_once =
      std::min(sums.chunks_at_once(), target.contiguous() ? UINT64_MAX : kChunksInBuffer);
  in_shares(job.threads, layout.chunks(), [&](unsigned share, uint64_t begin, uint64_t end) {
    const uint8_t* from = payload.data() + layout.escapes_begin();
    for (uint64_t chunk = 0; chunk < begin; ++chunk) from += escape_bytes(layout, lines, chunk);
    uint8_t buffer[4 * kChunk * kChunksInBuffer];
    bool well = true;
    for (uint64_t first = begin; first < end && well;) {
      const uint64_t last = first + std::min(at_once, end - first);
      uint8_t* const values =
          target.contiguous() ? target.data + first * kChunk * dtype_bytes(target.dtype) : buffer;
      well = kernels.decode(payload.data() + layout.line_of(first),
                            payload.data() + layout.body_of(first), from,
                            layout.value_of(last) - layout.value_of(first), layout.tail_bytes,
                            values, stream && target.contiguous());
      sums.add(share, first, last);  // now that they are in the cache
      for (uint64_t chunk = first; chunk < last; ++chunk)
        from += escape_bytes(layout, lines, chunk);
      if (well && !target.contiguous())
        scatter(buffer, target, layout.value_of(first), layout.value_of(last));
      first = last;
    }
    if (!well) good = false;
  });
  if (!good) return "exp4 codes and escapes that do not match";
  sums.finish(payload.size());
  return nullptr;
}

}  // namespace

const Scheme kExp4 = {0, true, least_bytes, most_bytes, encode, decode, true};

}  // namespace blatam
