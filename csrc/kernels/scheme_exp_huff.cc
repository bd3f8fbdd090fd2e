// `exp_huff`: every byte of the values in a plane of its own, and planes with redundancy, the
// exponents above all, in a prefix code. Payload: the bytes of each block of 65,536 values as
// 32-bit integers, then the blocks, which know nothing of one another.
#include <array>
#include <atomic>
#include <cstring>
#include <memory>
#include <utility>

#include "kernels/arithmetic.h"
#include "kernels/lossless.h"
#include "kernels/parallel.h"
#include "kernels/pieces.h"
#include "kernels/prefix_code.h"
#include "kernels/schemes.h"
#include "kernels/value_order.h"

namespace blatam {
namespace {

constexpr uint64_t kBlock = 65536;  // values; the last block may be shorter
constexpr uint64_t kIndexBytes = 4;
// Fewer values are never coded: the code's description would not pay, and pack() writes past its
// end.
constexpr size_t kLeastCoded = 256;

enum Form : uint8_t { kRawPlane = 0, kConstantPlane = 1, kCodedPlane = 2 };

struct Layout {
  uint64_t values;
  size_t width;

  uint64_t blocks() const { return (values + kBlock - 1) / kBlock; }
  uint64_t value_of(uint64_t block) const { return std::min(block * kBlock, values); }
  uint64_t index_bytes() const { return blocks() * kIndexBytes; }
  // The most that the blocks before `block` take.
  uint64_t room(uint64_t block) const { return value_of(block) * width + block * width; }
};

Layout layout_of(const Shape& shape, Dtype dtype) { return {shape.values(), dtype_bytes(dtype)}; }

uint64_t least_bytes(const Shape& shape, Dtype dtype) {
  const Layout layout = layout_of(shape, dtype);
  return layout.index_bytes() + layout.blocks() * layout.width * 2;
}

uint64_t most_bytes(const Shape& shape, Dtype dtype) {
  const Layout layout = layout_of(shape, dtype);
  return layout.index_bytes() + layout.room(layout.blocks());
}

// What a thread needs for one block.
struct Scratch {
  DecodeTable table;
  std::array<std::array<uint8_t, kBlock>, kMostPlanes> planes;
};

// ---- encoding -----------------------------------------------------------------------------------

// A guess from a sixteenth of the plane, the first 64 of every 1,024 symbols: whether two symbols
// drawn from it are equal more often, by a quarter, than if all 256 were as likely. Mantissas are
// not, and counting all of them would cost a third of the time.
bool promising(const HuffKernels& kernels, const uint8_t* symbols, size_t count) {
  std::array<uint32_t, kSymbols> counts{};
  uint64_t drawn = 0;
  for (size_t i = 0; i < count; i += 1024) {
    const size_t some = std::min<size_t>(64, count - i);
    kernels.count(symbols + i, some, counts.data());
    drawn += some;
  }
  uint64_t equal = 0;
  for (const uint64_t n : counts) equal += n * n - n;
  return equal * 1024 > 5 * drawn * drawn;
}

// The form, and what it needs. Returns the bytes; never more than count + 1.
size_t encode_plane(const HuffKernels& kernels, const uint8_t* symbols, size_t count,
                    bool exponents, uint8_t* out) {
  if (std::memcmp(symbols, symbols + 1, count - 1) == 0) {
    out[0] = kConstantPlane;
    out[1] = symbols[0];
    return 2;
  }
  if (count >= kLeastCoded && (exponents || promising(kernels, symbols, count))) {
    std::array<uint32_t, kSymbols> counts{};
    std::array<uint8_t, kSymbols> lengths;
    kernels.count(symbols, count, counts.data());
    code_lengths(counts, lengths);
    size_t first = 0;
    size_t last = kSymbols - 1;
    while (lengths[first] == 0) ++first;
    while (lengths[last] == 0) --last;
    uint64_t bits = 0;
    for (size_t s = first; s <= last; ++s) bits += uint64_t{counts[s]} * lengths[s];
    const size_t described = 3 + (last - first) / 2 + 1;
    if (described + 2 * kStreams + bits / 8 + kStreams + count / 32 <= count) {
      out[0] = kCodedPlane;
      out[1] = static_cast<uint8_t>(first);
      out[2] = static_cast<uint8_t>(last);
      std::memset(out + 3, 0, described - 3);
      for (size_t s = first; s <= last; ++s)
        out[3 + (s - first) / 2] |= static_cast<uint8_t>(lengths[s] << 4 * ((s - first) % 2));
      std::array<uint16_t, kSymbols> codes;
      canonical_codes(lengths, codes);
      size_t at = described + 2 * kStreams;
      for (size_t s = 0; s < kStreams; ++s) {
        const size_t begin = stream_begin(s, count);
        const size_t bytes = kernels.pack(symbols + begin, stream_begin(s + 1, count) - begin,
                                          codes.data(), out + at);
        store_bits(out + described + 2 * s, static_cast<uint16_t>(bytes));
        at += bytes;
      }
      return at;
    }
  }
  out[0] = kRawPlane;
  std::memcpy(out + 1, symbols, count);
  return count + 1;
}

size_t encode_block(const HuffKernels& kernels, const Source& source, uint64_t begin, uint64_t end,
                    Scratch& scratch, uint8_t* out) {
  const size_t width = dtype_bytes(source.dtype);
  each_stretch_of_values(source, begin, end,
                         [&](const uint8_t* values, uint64_t at, uint64_t count) {
                           std::array<uint8_t*, kMostPlanes> planes;
                           for (size_t p = 0; p < kMostPlanes; ++p)
                             planes[p] = scratch.planes[p].data() + at;
                           kernels.split(values, count, width, planes.data());
                         });
  size_t bytes = 0;
  for (size_t p = 0; p < width; ++p)
    bytes += encode_plane(kernels, scratch.planes[p].data(), end - begin, p == 0, out + bytes);
  return bytes;
}

uint64_t encode_into(const Job& job, const Source& source, uint8_t* payload) {
  const Layout layout = layout_of(source.shape, source.dtype);
  const HuffKernels& kernels = lossless_for(job.kernels.isa).huff;
  const auto scratch = std::make_unique_for_overwrite<Scratch[]>(job.threads);
  std::atomic<unsigned> next = 0;
  uint8_t* const blocks = payload + layout.index_bytes();
  Pieces pieces(job.threads);
  in_parallel(job.threads, layout.blocks(), [&](uint64_t begin, uint64_t end) {
    Scratch& mine = scratch[next++];
    const uint64_t room = layout.room(begin);
    uint64_t used = 0;
    for (uint64_t block = begin; block < end; ++block) {
      const size_t bytes = encode_block(kernels, source, layout.value_of(block),
                                        layout.value_of(block + 1), mine, blocks + room + used);
      store_bits(payload + block * kIndexBytes, static_cast<uint32_t>(bytes));
      used += bytes;
    }
    pieces.add(room, used);
  });
  return layout.index_bytes() + pieces.join(blocks);
}

uint64_t encode(const Job& job, const Source& source, std::span<uint8_t> payload) {
  return write_within(payload, most_bytes(source.shape, source.dtype),
                      [&](uint8_t* output) { return encode_into(job, source, output); });
}

// ---- decoding -----------------------------------------------------------------------------------

// Takes `bytes` from the front; nullptr if there are not as many.
const uint8_t* take(std::span<const uint8_t>& from, size_t bytes) {
  if (from.size() < bytes) return nullptr;
  const uint8_t* const taken = from.data();
  from = from.subspan(bytes);
  return taken;
}

// The lengths that a plane begins with, or false where they are no complete code or not written in
// the one way there is.
bool take_lengths(std::span<const uint8_t>& from, std::span<uint8_t, kSymbols> lengths) {
  const uint8_t* const ends = take(from, 2);
  if (ends == nullptr || ends[0] >= ends[1]) return false;
  const size_t first = ends[0];
  const size_t count = ends[1] - first + size_t{1};
  const uint8_t* const packed = take(from, (count + 1) / 2);
  if (packed == nullptr || (count % 2 == 1 && packed[count / 2] >> 4 != 0)) return false;
  std::fill(lengths.begin(), lengths.end(), uint8_t{0});
  for (size_t i = 0; i < count; ++i) {
    lengths[first + i] = packed[i / 2] >> 4 * (i % 2) & 15;
    if (lengths[first + i] > kLongestCode) return false;
  }
  return lengths[first] != 0 && lengths[first + count - 1] != 0 && complete_code(lengths);
}

// The symbols of a plane: `room`, filled, or where they stand in the payload. nullptr for damage.
const uint8_t* decode_plane(const HuffKernels& kernels, std::span<const uint8_t>& from,
                            size_t count, DecodeTable& table, uint8_t* room) {
  const uint8_t* const form = take(from, 1);
  if (form == nullptr) return nullptr;
  if (*form == kRawPlane) return take(from, count);
  if (*form == kConstantPlane) {
    const uint8_t* const symbol = take(from, 1);
    if (symbol == nullptr) return nullptr;
    std::memset(room, *symbol, count);
    return room;
  }
  std::array<uint8_t, kSymbols> lengths;
  if (*form != kCodedPlane || count < kLeastCoded || !take_lengths(from, lengths)) return nullptr;
  const uint8_t* const sizes = take(from, 2 * kStreams);
  if (sizes == nullptr) return nullptr;
  std::array<uint16_t, kStreams> bytes;
  size_t total = 0;
  for (size_t s = 0; s < kStreams; ++s) {
    bytes[s] = load_bits<uint16_t>(sizes + 2 * s);
    total += bytes[s];
  }
  const uint8_t* const streams = take(from, total);
  if (streams == nullptr) return nullptr;
  decode_table(lengths, table);
  return kernels.unpack(streams, bytes.data(), table, count, room) ? room : nullptr;
}

bool decode_block(const HuffKernels& kernels, std::span<const uint8_t> block, const Target& target,
                  uint64_t begin, uint64_t end, Scratch& scratch, bool stream) {
  const size_t width = dtype_bytes(target.dtype);
  std::array<const uint8_t*, kMostPlanes> planes{};
  for (size_t p = 0; p < width; ++p) {
    planes[p] = decode_plane(kernels, block, end - begin, scratch.table, scratch.planes[p].data());
    if (planes[p] == nullptr) return false;
  }
  if (!block.empty()) return false;
  each_stretch_of_values(target, begin, end, [&](uint8_t* values, uint64_t at, uint64_t count) {
    std::array<const uint8_t*, kMostPlanes> here{};
    for (size_t p = 0; p < width; ++p) here[p] = planes[p] + at;
    kernels.merge(here.data(), count, width, values, stream);
  });
  return true;
}

const char* decode(const Job& job, std::span<const uint8_t> payload, const Target& target) {
  const Layout layout = layout_of(target.shape, target.dtype);
  if (payload.size() < layout.index_bytes()) return "the index of exp_huff is cut short";
  const auto bytes_of = [&](uint64_t block) {
    return uint64_t{load_bits<uint32_t>(payload.data() + block * kIndexBytes)};
  };
  uint64_t total = layout.index_bytes();
  for (uint64_t block = 0; block < layout.blocks(); ++block) total += bytes_of(block);
  if (total != payload.size()) return "exp_huff blocks that do not add up to the payload";

  const HuffKernels& kernels = lossless_for(job.kernels.isa).huff;
  const bool stream = target.contiguous() && layout.values * layout.width > kStreamBytes;
  const auto scratch = std::make_unique_for_overwrite<Scratch[]>(job.threads);
  std::atomic<unsigned> next = 0;
  std::atomic<bool> good = true;
  in_parallel(job.threads, layout.blocks(), [&](uint64_t begin, uint64_t end) {
    Scratch& mine = scratch[next++];
    uint64_t at = layout.index_bytes();
    for (uint64_t block = 0; block < begin; ++block) at += bytes_of(block);
    bool well = true;
    for (uint64_t block = begin; block < end && well; ++block) {
      well = decode_block(kernels, payload.subspan(at, bytes_of(block)), target,
                          layout.value_of(block), layout.value_of(block + 1), mine, stream);
      at += bytes_of(block);
    }
    if (!well) good = false;
  });
  return good ? nullptr : "an exp_huff block that no encoder writes";
}

}  // namespace

const Scheme kExpHuff = {0, true, least_bytes, most_bytes, encode, decode};

}  // namespace blatam
