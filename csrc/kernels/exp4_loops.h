// exp4 as plain loops, which the compiler turns into vectors of whatever width its flags allow.
// Internal to the file that includes it.
//
// A chunk is read twice, once for its largest exponent and once for the codes; the second time it
// comes from the first-level cache.
#pragma once

#include "kernels/arithmetic.h"
#include "kernels/lossless.h"
#include "kernels/stream_store.h"

namespace blatam {
namespace {

constexpr uint8_t kEscapeCode = 15;

// The 16-bit pattern of a value: fp32's upper half.
template <Dtype kDtype>
struct Exponent {
  static constexpr int kShift = kDtype == Dtype::fp16 ? 10 : 7;
  static constexpr uint16_t kMask = kDtype == Dtype::fp16 ? 31 : 255;
};

inline uint8_t top_of(uint16_t bits) { return static_cast<uint8_t>(bits >> 7); }
inline uint8_t rest_of(uint16_t bits) {
  return static_cast<uint8_t>((bits & 0x7f) | (bits >> 8 & 0x80));
}
inline uint16_t pattern_of(uint8_t top, uint8_t rest) {
  return static_cast<uint16_t>((rest & 0x80) << 8 | top << 7 | (rest & 0x7f));
}

// ---- codes of a block of 64 ---------------------------------------------------------------------

// Seven bits each, 64 of them into 56 bytes: byte 8 g + k has value 8 g + k below, and above it bit
// g of value 56 + k.
inline void pack_sevens(const uint8_t* sevens, uint8_t* packed) {
  const uint64_t last = load_bits<uint64_t>(sevens + 56);
  for (int g = 0; g < 7; ++g)
    store_bits<uint64_t>(packed + 8 * g, load_bits<uint64_t>(sevens + 8 * g) |
                                             (last >> g & 0x0101010101010101u) << 7);
}
// Values 56 to 63.
inline uint64_t last_sevens(const uint8_t* packed) {
  uint64_t last = 0;
  for (int g = 0; g < 7; ++g)
    last |= (load_bits<uint64_t>(packed + 8 * g) >> 7 & 0x0101010101010101u) << g;
  return last;
}

// A block is where instruction sets differ: of these four functions a file may bring its own. The
// two that encode return which values escape, the first in the lowest bit; the two that decode
// return how many codes say escape, and give such a value whatever exponent its code means.
struct PlainBlocks {
  static uint16_t code_of(uint16_t largest, uint16_t exponent) {
    const auto below = static_cast<uint16_t>(largest - exponent);
    return below < kEscapeCode ? below : kEscapeCode;
  }

  template <int kShift, int kMask>
  static uint64_t escapes_in(const uint8_t* patterns, uint8_t largest) {
    uint64_t escapes = 0;
    for (size_t i = 0; i < kCodeBlock; ++i) {
      const uint16_t exponent = load_bits<uint16_t>(patterns + 2 * i) >> kShift & kMask;
      escapes |= static_cast<uint64_t>(code_of(largest, exponent) == kEscapeCode) << i;
    }
    return escapes;
  }

  // bf16 and the upper half of fp32.
  static uint64_t encode_nibbles(const uint8_t* patterns, uint8_t largest, uint8_t* codes,
                                 uint8_t* rests) {
    constexpr size_t kHalf = kCodeBlock / 2;
    uint16_t seen = 0;  // escapes are rare: first whether there is one, then where
    for (size_t i = 0; i < kHalf; ++i) {
      const uint16_t low = load_bits<uint16_t>(patterns + 2 * i);
      const uint16_t high = load_bits<uint16_t>(patterns + 2 * (i + kHalf));
      const uint16_t low_code = code_of(largest, low >> 7 & 255);
      const uint16_t high_code = code_of(largest, high >> 7 & 255);
      seen = static_cast<uint16_t>(seen | (low_code + 1) | (high_code + 1));
      codes[i] = static_cast<uint8_t>(low_code | high_code << 4);
      rests[i] = rest_of(low);
      rests[i + kHalf] = rest_of(high);
    }
    return (seen & (kEscapeCode + 1)) != 0 ? escapes_in<7, 255>(patterns, largest) : 0;
  }
  static unsigned decode_nibbles(const uint8_t* codes, const uint8_t* rests, uint8_t largest,
                                 uint8_t* patterns) {
    constexpr size_t kHalf = kCodeBlock / 2;
    uint8_t escapes = 0;
    for (size_t i = 0; i < kHalf; ++i) {
      const auto low = static_cast<uint8_t>(codes[i] & 15);
      const auto high = static_cast<uint8_t>(codes[i] >> 4);
      escapes = static_cast<uint8_t>(escapes + (low == kEscapeCode) + (high == kEscapeCode));
      store_bits(patterns + 2 * i, pattern_of(static_cast<uint8_t>(largest - low), rests[i]));
      store_bits(patterns + 2 * (i + kHalf),
                 pattern_of(static_cast<uint8_t>(largest - high), rests[i + kHalf]));
    }
    return escapes;
  }

  // fp16.
  static uint64_t encode_sevens(const uint8_t* patterns, uint8_t largest, uint8_t* codes,
                                uint8_t* rests) {
    uint8_t sevens[kCodeBlock];
    uint16_t seen = 0;
    for (size_t i = 0; i < kCodeBlock; ++i) {
      const uint16_t bits = load_bits<uint16_t>(patterns + 2 * i);
      const uint16_t code = code_of(largest, bits >> 10 & 31);
      seen = static_cast<uint16_t>(seen | (code + 1));
      sevens[i] = static_cast<uint8_t>(code << 3 | (bits >> 7 & 7));
      rests[i] = rest_of(bits);
    }
    pack_sevens(sevens, codes);
    return (seen & (kEscapeCode + 1)) != 0 ? escapes_in<10, 31>(patterns, largest) : 0;
  }
  static unsigned decode_sevens(const uint8_t* codes, const uint8_t* rests, uint8_t largest,
                                uint8_t* patterns) {
    uint8_t sevens[kCodeBlock];
    for (size_t i = 0; i < code_block_bytes(Dtype::fp16); ++i) sevens[i] = codes[i] & 0x7f;
    store_bits(sevens + code_block_bytes(Dtype::fp16), last_sevens(codes));
    uint8_t escapes = 0;
    // The exponent (modulo 32) is the largest less the code, with three bits of mantissa below.
    const auto top = static_cast<uint8_t>(largest << 3);
    for (size_t i = 0; i < kCodeBlock; ++i) {
      const uint8_t seven = sevens[i];
      escapes = static_cast<uint8_t>(escapes + (seven >= kEscapeCode << 3));
      store_bits(patterns + 2 * i,
                 pattern_of(static_cast<uint8_t>((top - (seven & 0x78)) | (seven & 7)), rests[i]));
    }
    return escapes;
  }
};

template <class Blocks, Dtype kDtype>
inline uint64_t encode_block(const uint8_t* patterns, uint8_t largest, uint8_t* codes,
                             uint8_t* rests) {
  if constexpr (kDtype == Dtype::fp16)
    return Blocks::encode_sevens(patterns, largest, codes, rests);
  else
    return Blocks::encode_nibbles(patterns, largest, codes, rests);
}
template <class Blocks, Dtype kDtype>
inline unsigned decode_block(const uint8_t* codes, const uint8_t* rests, uint8_t largest,
                             uint8_t* patterns) {
  if constexpr (kDtype == Dtype::fp16)
    return Blocks::decode_sevens(codes, rests, largest, patterns);
  else
    return Blocks::decode_nibbles(codes, rests, largest, patterns);
}

// Where the reading goes on is clear to us and not to the machine: a body is codes, then rests,
// each too short a stretch for its prefetcher. So each block asks for its share of what lies two
// chunks ahead: decoding goes from 0.5 to 0.85 of a copy.
struct Ahead {
  const uint8_t* bytes;
  size_t share;

  Ahead(const uint8_t* chunk, size_t chunk_bytes)
      : bytes(chunk + 2 * chunk_bytes), share(chunk_bytes / (kChunk / kCodeBlock)) {}
  void prefetch(size_t block) const {
    for (size_t i = 0; i < share; i += kLine) __builtin_prefetch(bytes + block * share + i);
  }
};

// ---- chunks -------------------------------------------------------------------------------------

template <Dtype kDtype>
inline uint8_t largest_exponent(const uint8_t* patterns, size_t count) {
  int16_t largest = 0;  // signed, for the sake of SSE2
  for (size_t i = 0; i < count; ++i) {
    const auto magnitude = static_cast<int16_t>(load_bits<uint16_t>(patterns + 2 * i) & 0x7fff);
    largest = magnitude > largest ? magnitude : largest;
  }
  return static_cast<uint8_t>(largest >> Exponent<kDtype>::kShift);
}

// Line, codes, rests and escapes of 1 to kChunk patterns. Returns the bytes of escapes.
template <class Blocks, Dtype kDtype>
inline size_t encode_chunk(const uint8_t* patterns, size_t count, Ahead ahead, uint8_t* line,
                           uint8_t* codes, uint8_t* rests, uint8_t* escapes) {
  using E = Exponent<kDtype>;
  constexpr size_t kBytes = code_block_bytes(kDtype);
  const uint8_t largest = largest_exponent<kDtype>(patterns, count);
  const size_t excess = raw_chunk_excess(kDtype, count);
  size_t used = 0;
  bool raw = false;
  const auto add_escapes = [&](size_t begin, uint64_t places) {
    for (; places != 0 && !raw; places &= places - 1) {
      raw = used + kEscapeBytes > excess;
      if (raw) return;
      const size_t i = begin + static_cast<size_t>(__builtin_ctzll(places));
      store_bits(escapes + used, static_cast<uint16_t>(i));
      escapes[used + 2] =
          static_cast<uint8_t>(load_bits<uint16_t>(patterns + 2 * i) >> E::kShift & E::kMask);
      used += kEscapeBytes;
    }
  };
  size_t i = 0;
  for (; i + kCodeBlock <= count && !raw; i += kCodeBlock) {
    ahead.prefetch(i / kCodeBlock);
    add_escapes(i, encode_block<Blocks, kDtype>(patterns + 2 * i, largest,
                                                codes + i / kCodeBlock * kBytes, rests + i));
  }
  if (i < count && !raw) {
    // What the block lacks is as if it had the largest exponent and no other bit: zeros.
    const size_t left = count - i;
    uint8_t padded[2 * kCodeBlock];
    uint8_t block_codes[kCodeBlock];
    uint8_t block_rests[kCodeBlock];
    for (size_t j = 0; j < kCodeBlock; ++j)
      store_bits<uint16_t>(padded + 2 * j, static_cast<uint16_t>(largest << E::kShift));
    memcpy(padded, patterns + 2 * i, 2 * left);
    add_escapes(i, encode_block<Blocks, kDtype>(padded, largest, block_codes, block_rests));
    memcpy(codes + i / kCodeBlock * kBytes, block_codes, left < kBytes ? left : kBytes);
    memcpy(rests + i, block_rests, left);
  }
  line[0] = largest;
  if (!raw) {
    store_bits<uint16_t>(line + 1, static_cast<uint16_t>(used / kEscapeBytes));
    return used;
  }
  store_bits<uint16_t>(line + 1, kRawChunk);
  const size_t first = count - excess;
  for (size_t j = 0; j < first; ++j) codes[j] = top_of(load_bits<uint16_t>(patterns + 2 * j));
  for (size_t j = first; j < count; ++j)
    escapes[j - first] = top_of(load_bits<uint16_t>(patterns + 2 * j));
  for (size_t j = 0; j < count; ++j) rests[j] = rest_of(load_bits<uint16_t>(patterns + 2 * j));
  return excess;
}

// The patterns again. `*escapes` moves past the chunk's own. False for what no encoder writes.
template <class Blocks, Dtype kDtype>
inline bool decode_chunk(const uint8_t* line, const uint8_t* codes, const uint8_t* rests,
                         const uint8_t** escapes, size_t count, Ahead ahead, uint8_t* patterns) {
  using E = Exponent<kDtype>;
  constexpr size_t kBytes = code_block_bytes(kDtype);
  const uint8_t largest = line[0];
  const uint16_t stored = load_bits<uint16_t>(line + 1);
  if (stored == kRawChunk) {
    const size_t excess = raw_chunk_excess(kDtype, count);
    const size_t first = count - excess;
    for (size_t i = 0; i < first; ++i)
      store_bits<uint16_t>(patterns + 2 * i, pattern_of(codes[i], rests[i]));
    for (size_t i = first; i < count; ++i)
      store_bits<uint16_t>(patterns + 2 * i, pattern_of((*escapes)[i - first], rests[i]));
    *escapes += excess;
    return true;
  }
  size_t found = 0;
  size_t i = 0;
  for (; i + kCodeBlock <= count; i += kCodeBlock) {
    ahead.prefetch(i / kCodeBlock);
    found += decode_block<Blocks, kDtype>(codes + i / kCodeBlock * kBytes, rests + i, largest,
                                          patterns + 2 * i);
  }
  if (i < count) {
    const size_t left = count - i;
    uint8_t padded[2 * kCodeBlock];
    uint8_t block_codes[kCodeBlock] = {};
    uint8_t block_rests[kCodeBlock] = {};
    memcpy(block_codes, codes + i / kCodeBlock * kBytes, left < kBytes ? left : kBytes);
    memcpy(block_rests, rests + i, left);
    found += decode_block<Blocks, kDtype>(block_codes, block_rests, largest, padded);
    memcpy(patterns + 2 * i, padded, 2 * left);
    for (size_t j = left; j < kCodeBlock; ++j)
      if (load_bits<uint16_t>(padded + 2 * j) != (largest & E::kMask) << E::kShift) return false;
  }
  if (found != stored) return false;
  // As many escapes as codes that say so, at ascending places that say so: one for each.
  size_t next = 0;
  const uint16_t unset = static_cast<uint16_t>((largest - kEscapeCode) & E::kMask);
  for (size_t k = 0; k < stored; ++k, *escapes += kEscapeBytes) {
    const size_t place = load_bits<uint16_t>(*escapes);
    const uint8_t exponent = (*escapes)[2];
    if (place < next || place >= count || exponent > E::kMask) return false;
    next = place + 1;
    const uint16_t bits = load_bits<uint16_t>(patterns + 2 * place);
    if ((bits >> E::kShift & E::kMask) != unset) return false;
    store_bits<uint16_t>(
        patterns + 2 * place,
        static_cast<uint16_t>((bits & ~(E::kMask << E::kShift)) | exponent << E::kShift));
  }
  return true;
}

// ---- many chunks --------------------------------------------------------------------------------

// fp32's halves: the patterns, and the tail bytes that are stored.
inline void halve(const uint8_t* values, size_t count, size_t tail_bytes, uint8_t* patterns,
                  uint8_t* tails) {
  for (size_t i = 0; i < count; ++i)
    store_bits<uint16_t>(patterns + 2 * i, load_bits<uint16_t>(values + 4 * i + 2));
  if (tail_bytes == 2)
    for (size_t i = 0; i < count; ++i)
      store_bits<uint16_t>(tails + 2 * i, load_bits<uint16_t>(values + 4 * i));
  else if (tail_bytes == 1)
    for (size_t i = 0; i < count; ++i) tails[i] = values[4 * i + 1];
}

inline void join(const uint8_t* patterns, const uint8_t* tails, size_t count, size_t tail_bytes,
                 uint8_t* values) {
  const auto put = [=](size_t i, uint32_t tail) {
    const uint32_t bits = static_cast<uint32_t>(load_bits<uint16_t>(patterns + 2 * i)) << 16 | tail;
    store_bits(values + 4 * i, bits);
  };
  if (tail_bytes == 2)
    for (size_t i = 0; i < count; ++i) put(i, load_bits<uint16_t>(tails + 2 * i));
  else if (tail_bytes == 1)
    for (size_t i = 0; i < count; ++i) put(i, static_cast<uint32_t>(tails[i]) << 8);
  else
    for (size_t i = 0; i < count; ++i) put(i, 0);
}

template <class Blocks, Dtype kDtype>
size_t exp4_encode(const uint8_t* values, size_t count, size_t tail_bytes, uint8_t* lines,
                   uint8_t* bodies, uint8_t* escapes, bool stream) {
  constexpr size_t kWidth = kDtype == Dtype::fp32 ? 4 : 2;
  StreamWriter out(bodies, stream);
  uint8_t patterns[2 * kChunk];
  size_t used = 0;
  for (size_t i = 0; i < count; i += kChunk, lines += kChunkLine) {
    const size_t size = count - i < kChunk ? count - i : kChunk;
    const size_t code_bytes = exp4_code_bytes(kDtype, size);
    const uint8_t* from = values + kWidth * i;
    const Ahead ahead(from, kWidth * kChunk);
    uint8_t* const body = out.next();
    if constexpr (kDtype == Dtype::fp32) {
      halve(from, size, tail_bytes, patterns, body + code_bytes + size);
      from = patterns;
    }
    used += encode_chunk<Blocks, kDtype>(from, size, ahead, lines, body, body + code_bytes,
                                         escapes + used);
    out.advance(exp4_body_bytes(kDtype, tail_bytes, size));
  }
  out.finish();
  return used;
}

template <class Blocks, Dtype kDtype>
bool exp4_decode(const uint8_t* lines, const uint8_t* bodies, const uint8_t* escapes, size_t count,
                 size_t tail_bytes, uint8_t* values, bool stream) {
  constexpr size_t kWidth = kDtype == Dtype::fp32 ? 4 : 2;
  StreamWriter out(values, stream);
  uint8_t patterns[2 * kChunk];
  for (size_t i = 0; i < count; i += kChunk, lines += kChunkLine) {
    const size_t size = count - i < kChunk ? count - i : kChunk;
    const size_t code_bytes = exp4_code_bytes(kDtype, size);
    uint8_t* const chunk = out.next();
    uint8_t* const to = kDtype == Dtype::fp32 ? patterns : chunk;
    const Ahead ahead(bodies, exp4_body_bytes(kDtype, tail_bytes, kChunk));
    if (!decode_chunk<Blocks, kDtype>(lines, bodies, bodies + code_bytes, &escapes, size, ahead,
                                      to))
      return false;
    if constexpr (kDtype == Dtype::fp32)
      join(patterns, bodies + code_bytes + size, size, tail_bytes, chunk);
    out.advance(kWidth * size);
    bodies += exp4_body_bytes(kDtype, tail_bytes, size);
  }
  out.finish();
  return true;
}

template <class Blocks, Dtype kDtype>
constexpr Exp4Kernels kExp4Loops = {exp4_encode<Blocks, kDtype>, exp4_decode<Blocks, kDtype>};

}  // namespace
}  // namespace blatam
