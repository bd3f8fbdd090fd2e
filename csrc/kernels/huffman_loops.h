// exp_huff's loops: cutting values into planes and joining them, counting, packing and unpacking.
// Internal to the file that includes it.
//
// Unpacking looks up 11 bits at once and takes every whole code in them, three or four symbols for
// an exponent plane. One lookup waits for the one before it (eight cycles or so), so four streams
// run side by side; their number times what each keeps is what the registers hold.
#pragma once

#include "kernels/arithmetic.h"
#include "kernels/lossless.h"
#include "kernels/stream_store.h"

namespace blatam {
namespace {

// ---- planes -------------------------------------------------------------------------------------

inline void split_values(const uint8_t* values, size_t count, size_t width,
                         uint8_t* const* planes) {
  uint8_t* const tops = planes[0];
  uint8_t* const rests = planes[1];
  if (width == 2) {
    for (size_t i = 0; i < count; ++i) {
      const uint16_t bits = load_bits<uint16_t>(values + 2 * i);
      tops[i] = static_cast<uint8_t>(bits >> 7);
      rests[i] = static_cast<uint8_t>((bits & 0x7f) | (bits >> 8 & 0x80));
    }
    return;
  }
  uint8_t* const third = planes[2];
  uint8_t* const last = planes[3];
  for (size_t i = 0; i < count; ++i) {
    const uint32_t bits = load_bits<uint32_t>(values + 4 * i);
    tops[i] = static_cast<uint8_t>(bits >> 23);
    rests[i] = static_cast<uint8_t>((bits >> 16 & 0x7f) | (bits >> 24 & 0x80));
    third[i] = static_cast<uint8_t>(bits >> 8);
    last[i] = static_cast<uint8_t>(bits);
  }
}

inline void merge_piece(const uint8_t* const* planes, size_t begin, size_t count, size_t width,
                        uint8_t* values) {
  const uint8_t* const tops = planes[0] + begin;
  const uint8_t* const rests = planes[1] + begin;
  if (width == 2) {
    for (size_t i = 0; i < count; ++i) {
      const auto bits =
          static_cast<uint16_t>((rests[i] & 0x80) << 8 | tops[i] << 7 | (rests[i] & 0x7f));
      store_bits(values + 2 * i, bits);
    }
    return;
  }
  const uint8_t* const third = planes[2] + begin;
  const uint8_t* const last = planes[3] + begin;
  for (size_t i = 0; i < count; ++i) {
    const uint32_t bits = (rests[i] & 0x80u) << 24 | static_cast<uint32_t>(tops[i]) << 23 |
                          (rests[i] & 0x7fu) << 16 | static_cast<uint32_t>(third[i]) << 8 | last[i];
    store_bits(values + 4 * i, bits);
  }
}

inline void merge_values(const uint8_t* const* planes, size_t count, size_t width, uint8_t* values,
                         bool stream) {
  const size_t piece = StreamWriter::kMostPiece / width;
  StreamWriter out(values, stream);
  for (size_t i = 0; i < count; i += piece) {
    const size_t size = count - i < piece ? count - i : piece;
    merge_piece(planes, i, size, width, out.next());
    out.advance(width * size);
  }
  out.finish();
}

// Equal symbols in a row would wait for one another's counters: four sets of them.
inline void count_symbols(const uint8_t* symbols, size_t count, uint32_t* counts) {
  uint32_t sets[4][256] = {};
  size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const uint64_t word = load_bits<uint64_t>(symbols + i);
    for (int j = 0; j < 8; ++j) ++sets[j & 3][word >> 8 * j & 255];
  }
  for (; i < count; ++i) ++sets[0][symbols[i]];
  for (size_t s = 0; s < 256; ++s) counts[s] += sets[0][s] + sets[1][s] + sets[2][s] + sets[3][s];
}

// ---- one stream ---------------------------------------------------------------------------------

// Writes codes one after the other. Every send() writes eight bytes, of which the whole ones stay.
class Packer {
 public:
  explicit Packer(uint8_t* stream) : begin_(stream), out_(stream) {}

  // Up to 57 bits may wait for a send(), which leaves at most seven.
  void put(uint64_t bits, uint64_t count) {
    bits_ |= bits << held_;
    held_ += count;
  }
  void put(uint16_t code) { put(code >> 4, code & 15u); }
  void send() {
    store_bits(out_, bits_);
    out_ += held_ >> 3;
    bits_ >>= held_ & 56u;
    held_ &= 7;
  }
  // The bytes of the stream.
  size_t end() {
    send();
    return static_cast<size_t>(out_ - begin_) + (held_ != 0);
  }

 private:
  uint8_t* begin_;
  uint8_t* out_;
  uint64_t bits_ = 0;
  uint64_t held_ = 0;
};

inline void pack_symbols(const uint8_t* symbols, size_t count, const uint16_t* codes,
                         Packer& packer) {
  size_t i = 0;
  for (; i + 5 <= count; i += 5) {  // seven bits and five codes of eleven fit
    for (size_t j = 0; j < 5; ++j) packer.put(codes[symbols[i + j]]);
    packer.send();
  }
  for (; i < count; ++i) packer.put(codes[symbols[i]]);
  packer.send();
}

inline size_t pack_stream(const uint8_t* symbols, size_t count, const uint16_t* codes,
                          uint8_t* stream) {
  Packer packer(stream);
  pack_symbols(symbols, count, codes, packer);
  return packer.end();
}

// ---- unpacking ----------------------------------------------------------------------------------

struct Unpacker {
  const uint8_t* stream;
  size_t bytes;
  uint64_t at;  // bits taken
  uint8_t* out;
  uint8_t* end;
};

constexpr size_t kLookups = 5;  // of 11 bits, in what eight bytes are sure to hold
constexpr ptrdiff_t kMostSymbols = 6 * kLookups;  // of one round
constexpr ptrdiff_t kRoundBytes = 7;              // that a round can move on in the stream

// Rounds in which a stream cannot leave its bytes or its symbols.
inline ptrdiff_t safe_rounds(const Unpacker& u) {
  const ptrdiff_t in = static_cast<ptrdiff_t>(u.bytes) - static_cast<ptrdiff_t>(u.at >> 3) - 8;
  const ptrdiff_t out = u.end - u.out - kMostSymbols - 2;  // the last store is eight bytes wide
  if (in < 0 || out < 0) return 0;
  const ptrdiff_t by_in = in / kRoundBytes + 1;
  const ptrdiff_t by_out = out / kMostSymbols + 1;
  return by_in < by_out ? by_in : by_out;
}

// One lookup: `bits` loses what was taken, and the sum of both numbers goes to `taken`.
#define BLATAM_LOOK_UP(n)                                    \
  {                                                          \
    const uint64_t entry = many[bits##n & (kTableSize - 1)]; \
    store_bits(out##n, entry);                               \
    const uint64_t numbers = entry >> 48;                    \
    bits##n >>= numbers & 63;                                \
    taken##n += numbers;                                     \
    out##n += numbers >> 8;                                  \
  }

inline void unpack_rounds(Unpacker* u, const uint64_t* many, ptrdiff_t rounds) {
  uint64_t at0 = u[0].at, at1 = u[1].at, at2 = u[2].at, at3 = u[3].at;
  uint8_t *out0 = u[0].out, *out1 = u[1].out, *out2 = u[2].out, *out3 = u[3].out;
  for (; rounds > 0; --rounds) {
    uint64_t bits0 = load_bits<uint64_t>(u[0].stream + (at0 >> 3)) >> (at0 & 7);
    uint64_t bits1 = load_bits<uint64_t>(u[1].stream + (at1 >> 3)) >> (at1 & 7);
    uint64_t bits2 = load_bits<uint64_t>(u[2].stream + (at2 >> 3)) >> (at2 & 7);
    uint64_t bits3 = load_bits<uint64_t>(u[3].stream + (at3 >> 3)) >> (at3 & 7);
    uint64_t taken0 = 0, taken1 = 0, taken2 = 0, taken3 = 0;
    for (size_t i = 0; i < kLookups; ++i) {
      BLATAM_LOOK_UP(0)
      BLATAM_LOOK_UP(1)
      BLATAM_LOOK_UP(2)
      BLATAM_LOOK_UP(3)
    }
    at0 += taken0 & 255;
    at1 += taken1 & 255;
    at2 += taken2 & 255;
    at3 += taken3 & 255;
  }
  u[0].at = at0, u[1].at = at1, u[2].at = at2, u[3].at = at3;
  u[0].out = out0, u[1].out = out1, u[2].out = out2, u[3].out = out3;
}

#undef BLATAM_LOOK_UP

// Symbol by symbol to the end. True if the codes end where the stream does, with zeros after them.
inline bool unpack_rest(Unpacker* u, const uint16_t* one) {
  const auto look = [&] {
    uint32_t bits = 0;
    for (size_t i = 0, byte = u->at >> 3; i < 3 && byte + i < u->bytes; ++i)
      bits |= static_cast<uint32_t>(u->stream[byte + i]) << 8 * i;
    return bits >> (u->at & 7);
  };
  while (u->out < u->end) {
    const uint16_t entry = one[look() & (kTableSize - 1)];
    *u->out++ = static_cast<uint8_t>(entry);
    u->at += entry >> 8;
  }
  return (u->at + 7) >> 3 == u->bytes && ((u->at & 7) == 0 || look() == 0);
}

inline bool unpack_plane(const uint8_t* streams, const uint16_t* bytes, const DecodeTable& table,
                         size_t count, uint8_t* symbols) {
  Unpacker all[kStreams];
  for (size_t s = 0; s < kStreams; ++s) {
    all[s] = {streams, bytes[s], 0, symbols + stream_begin(s, count),
              symbols + stream_begin(s + 1, count)};
    streams += bytes[s];
  }
  bool good = true;
  for (size_t four = 0; four < kStreams; four += 4) {
    for (;;) {
      ptrdiff_t rounds = safe_rounds(all[four]);
      for (size_t s = four + 1; s < four + 4; ++s) {
        const ptrdiff_t more = safe_rounds(all[s]);
        rounds = rounds < more ? rounds : more;
      }
      if (rounds == 0) break;
      unpack_rounds(all + four, table.many, rounds);
    }
    for (size_t s = four; s < four + 4; ++s) good = unpack_rest(&all[s], table.one) && good;
  }
  return good;
}

using Pack = size_t (*)(const uint8_t*, size_t, const uint16_t*, uint8_t*);

constexpr HuffKernels huff_kernels(Pack pack) {
  return {split_values, merge_values, count_symbols, pack, unpack_plane};
}

}  // namespace
}  // namespace blatam
