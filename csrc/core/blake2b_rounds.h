// The arithmetic of BLAKE2b (RFC 7693), written once: portable rounds, which CUDA compiles too
// (C++17, plain C headers), rounds in rows of four words for AVX2, and the two loops over either
// that the rest of the engine calls through a Blake2b table. All of it is static, internal to the
// file that includes it, so that the linker can never pick code compiled for one instruction set
// for a machine without it. Nothing allocates and nothing keeps state; all calls are safe from any
// thread. Use digest.h unless you write a kernel.
//
// What limits it. One compression is 24 dependent steps of twelve operations, 288 cycles that no
// width can shorten. A chain over token blocks is one such compression after another: nothing runs
// beside it. Scalar code needs longer than that to issue its 1,344 operations through four ports
// and fifteen registers. Rows of four issue a third of them; their byte shuffles cost one cycle
// more than a rotate, so they run at 360. The rest is keeping everything else (message words,
// diagonals, the hand-over from digest to next block) off that path.
//
// Measured on Zen 4 at 3.6 GHz, ns a compression (16-token blocks, then within a long message):
// baseline 117 and 126, AVX2 114 and 111. AVX-512 was tried and left out: its rotate takes two
// cycles there, as the shuffles do, and 32 registers gain 0.6 to 3.5 %.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#define BLATAM_HOST_DEVICE __host__ __device__
#define BLATAM_INLINE __forceinline__
#else
#define BLATAM_HOST_DEVICE
#define BLATAM_INLINE inline __attribute__((always_inline))
#endif

#if defined(__AVX2__) && !defined(__CUDACC__)
#include <immintrin.h>
#endif

// Tells the compiler that a value is needed in a register of its own here, which costs nothing.
// Rows: without it GCC reorders a + word + b so that the word waits for b, the last value a step
// finishes (6 %). Scalar: small changes make GCC 12 pack pairs of words into SSE2 vectors, which
// have no rotate (up to 6 times slower at -O2); it cannot pack across this.
#if defined(__GNUC__) && defined(__x86_64__) && !defined(__CUDACC__)
#define BLATAM_IN_REGISTER(kind, value) __asm__("" : "+" kind(value))
#else
#define BLATAM_IN_REGISTER(kind, value)
#endif

namespace blatam {

// One implementation of the hash. `state` is the eight chaining words, `counter` the bytes hashed
// before `message`.
struct Blake2b {
  const char* isa;

  // Absorbs `bytes` of message into `state`. Requires: a multiple of 128 bytes unless `last`. With
  // `last` the end is padded and flagged, and the digest is the first words of `state`.
  void (*update)(uint64_t* state, const unsigned char* message, size_t bytes, uint64_t counter,
                 bool last);

  // digests[i] = H(digests[i - 1] || block i of `tokens`) for `blocks` blocks of `block_bytes`, 32
  // bytes each, digests[-1] being `parent`. `state` and `counter` are where every message begins
  // and stay as they are. Requires: block_bytes >= 1; `digests` overlaps nothing.
  void (*chain)(const uint64_t* state, uint64_t counter, const unsigned char* parent,
                const unsigned char* tokens, size_t blocks, size_t block_bytes,
                unsigned char* digests);
};

extern const Blake2b kBlake2bBaseline;
extern const Blake2b kBlake2bAvx2;

constexpr size_t kBlake2bBlockBytes = 128;

// The initialisation vector: the fractional parts of the square roots of the first eight primes.
BLATAM_HOST_DEVICE static constexpr uint64_t blake2b_iv(int i) {
  return i == 0   ? 0x6a09e667f3bcc908u
         : i == 1 ? 0xbb67ae8584caa73bu
         : i == 2 ? 0x3c6ef372fe94f82bu
         : i == 3 ? 0xa54ff53a5f1d36f1u
         : i == 4 ? 0x510e527fade682d1u
         : i == 5 ? 0x9b05688c2b3e6c1fu
         : i == 6 ? 0x1f83d9abfb41bd6bu
                  : 0x5be0cd19137e2179u;
}

// Which message word round r uses in place i: the RFC's ten permutations, one hexadecimal digit
// each. A function and not a table, because device code cannot index a host table.
BLATAM_HOST_DEVICE static constexpr int blake2b_word(int r, int i) {
  const int row = r % 10;
  const uint64_t digits = row == 0   ? 0x0123456789abcdefu
                          : row == 1 ? 0xea489fd61c02b753u
                          : row == 2 ? 0xb8c052fdae367194u
                          : row == 3 ? 0x7931dcbe265a40f8u
                          : row == 4 ? 0x905724afe1bc683du
                          : row == 5 ? 0x2c6a0b834d75fe19u
                          : row == 6 ? 0xc51fed4a0763928bu
                          : row == 7 ? 0xdb7ec13950f4862au
                          : row == 8 ? 0x6fe9b308c2d714a5u
                                     : 0xa2847615fb9e3cd0u;
  return static_cast<int>((digits >> (60 - 4 * i)) & 15);
}

BLATAM_HOST_DEVICE static BLATAM_INLINE uint64_t load_le64(const unsigned char* from) {
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
  uint64_t word;
  memcpy(&word, from, sizeof word);
  return word;
#else
  uint64_t word = 0;
  for (int i = 7; i >= 0; --i) word = word << 8 | from[i];
  return word;
#endif
}

// Writes the 32 bytes of digest that a final state holds.
BLATAM_HOST_DEVICE static BLATAM_INLINE void blake2b_digest(const uint64_t* h, unsigned char* to) {
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
  memcpy(to, h, 32);
#else
  for (int i = 0; i < 32; ++i) to[i] = static_cast<unsigned char>(h[i / 8] >> (8 * (i % 8)));
#endif
}

// ---- portable rounds ----------------------------------------------------------------------------

namespace {  // or the members of these structs would be symbols the linker may choose from

struct Blake2bPortable {
  // Absorbs one 128-byte block. `counter`: bytes hashed up to and including this block (without
  // padding); `last`: all ones for the final block, else zero.
  BLATAM_HOST_DEVICE static BLATAM_INLINE void compress(uint64_t* h, const unsigned char* block,
                                                        uint64_t counter, uint64_t last) {
    uint64_t m[16];
    for (int i = 0; i < 16; ++i) m[i] = load_le64(block + 8 * i);
    compress_words(h, m, counter, last);
  }

  // The same block as its sixteen words.
  BLATAM_HOST_DEVICE static BLATAM_INLINE void compress_words(uint64_t* h, const uint64_t* m,
                                                              uint64_t counter, uint64_t last) {
    uint64_t v[16];
    for (int i = 0; i < 8; ++i) v[i] = h[i];
    for (int i = 0; i < 8; ++i) v[8 + i] = blake2b_iv(i);
    v[12] ^= counter;
    v[14] ^= last;
    round<0>(v, m);
    round<1>(v, m);
    round<2>(v, m);
    round<3>(v, m);
    round<4>(v, m);
    round<5>(v, m);
    round<6>(v, m);
    round<7>(v, m);
    round<8>(v, m);
    round<9>(v, m);
    round<10>(v, m);
    round<11>(v, m);
    for (int i = 0; i < 8; ++i) h[i] ^= v[i] ^ v[i + 8];
  }

 private:
  template <int kBits>
  BLATAM_HOST_DEVICE static BLATAM_INLINE uint64_t rotate_right(uint64_t x) {
    return x >> kBits | x << (64 - kBits);
  }

  BLATAM_HOST_DEVICE static BLATAM_INLINE void mix(uint64_t& a, uint64_t& b, uint64_t& c,
                                                   uint64_t& d, uint64_t x, uint64_t y) {
    a += x;
    BLATAM_IN_REGISTER("r", a);
    a += b;
    d = rotate_right<32>(d ^ a);
    c += d;
    b = rotate_right<24>(b ^ c);
    a += y;
    a += b;
    d = rotate_right<16>(d ^ a);
    c += d;
    b = rotate_right<63>(b ^ c);
    BLATAM_IN_REGISTER("r", b);
  }

  template <int r>
  BLATAM_HOST_DEVICE static BLATAM_INLINE void round(uint64_t* v, const uint64_t* m) {
    mix(v[0], v[4], v[8], v[12], m[blake2b_word(r, 0)], m[blake2b_word(r, 1)]);
    mix(v[1], v[5], v[9], v[13], m[blake2b_word(r, 2)], m[blake2b_word(r, 3)]);
    mix(v[2], v[6], v[10], v[14], m[blake2b_word(r, 4)], m[blake2b_word(r, 5)]);
    mix(v[3], v[7], v[11], v[15], m[blake2b_word(r, 6)], m[blake2b_word(r, 7)]);
    mix(v[0], v[5], v[10], v[15], m[blake2b_word(r, 8)], m[blake2b_word(r, 9)]);
    mix(v[1], v[6], v[11], v[12], m[blake2b_word(r, 10)], m[blake2b_word(r, 11)]);
    mix(v[2], v[7], v[8], v[13], m[blake2b_word(r, 12)], m[blake2b_word(r, 13)]);
    mix(v[3], v[4], v[9], v[14], m[blake2b_word(r, 14)], m[blake2b_word(r, 15)]);
  }
};

// ---- rows of four words
// --------------------------------------------------------------------------

#if defined(__AVX2__) && !defined(__CUDACC__)

// The 4x4 state as four rows; a step mixes all four columns at once. For the diagonals the rows are
// rotated against each other, and b, which a step finishes last, is the one that stays: a, c and d
// are ready early enough to hide the latency of their permutation.
struct Blake2bRows {
  static BLATAM_INLINE void compress(uint64_t* h, const unsigned char* block, uint64_t counter,
                                     uint64_t last) {
    // m[i] holds message words 2i and 2i + 1 in both halves, so that any four words are two blends
    // (which pair in which half) and one shuffle (which word of a pair).
    __m256i m[8];
    for (int i = 0; i < 8; ++i)
      m[i] = _mm256_broadcastsi128_si256(
          _mm_loadu_si128(reinterpret_cast<const __m128i*>(block + 16 * i)));
    const __m256i h_low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(h));
    const __m256i h_high = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(h + 4));
    __m256i a = h_low;
    __m256i b = h_high;
    __m256i c = _mm256_setr_epi64x(word(0), word(1), word(2), word(3));
    __m256i d = _mm256_xor_si256(
        _mm256_setr_epi64x(word(4), word(5), word(6), word(7)),
        _mm256_setr_epi64x(static_cast<long long>(counter), 0, static_cast<long long>(last), 0));
    round<0>(a, b, c, d, m);
    round<1>(a, b, c, d, m);
    round<2>(a, b, c, d, m);
    round<3>(a, b, c, d, m);
    round<4>(a, b, c, d, m);
    round<5>(a, b, c, d, m);
    round<6>(a, b, c, d, m);
    round<7>(a, b, c, d, m);
    round<8>(a, b, c, d, m);
    round<9>(a, b, c, d, m);
    round<10>(a, b, c, d, m);
    round<11>(a, b, c, d, m);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(h),
                        _mm256_xor_si256(_mm256_xor_si256(h_low, a), c));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(h + 4),
                        _mm256_xor_si256(_mm256_xor_si256(h_high, b), d));
  }

 private:
  static constexpr long long word(int i) { return static_cast<long long>(blake2b_iv(i)); }

  template <int kBits>
  static BLATAM_INLINE __m256i rotate_right(__m256i x) {
    if constexpr (kBits == 32) return _mm256_shuffle_epi32(x, 0xb1);
    if constexpr (kBits == 24)
      return _mm256_shuffle_epi8(
          x, _mm256_setr_epi8(3, 4, 5, 6, 7, 0, 1, 2, 11, 12, 13, 14, 15, 8, 9, 10, 3, 4, 5, 6, 7,
                              0, 1, 2, 11, 12, 13, 14, 15, 8, 9, 10));
    if constexpr (kBits == 16)
      return _mm256_shuffle_epi8(
          x, _mm256_setr_epi8(2, 3, 4, 5, 6, 7, 0, 1, 10, 11, 12, 13, 14, 15, 8, 9, 2, 3, 4, 5, 6,
                              7, 0, 1, 10, 11, 12, 13, 14, 15, 8, 9));
    return _mm256_xor_si256(_mm256_srli_epi64(x, 63), _mm256_add_epi64(x, x));
  }

  // Message words p, q, s, t as one row.
  template <int p, int q, int s, int t>
  static BLATAM_INLINE __m256i words(const __m256i* m) {
    const __m256i even = pair<p / 2, s / 2>(m);
    const __m256i odd = pair<q / 2, t / 2>(m);
    return _mm256_castpd_si256(
        _mm256_shuffle_pd(_mm256_castsi256_pd(even), _mm256_castsi256_pd(odd),
                          p % 2 | (q % 2) << 1 | (s % 2) << 2 | (t % 2) << 3));
  }

  template <int low, int high>
  static BLATAM_INLINE __m256i pair(const __m256i* m) {
    if constexpr (low == high) return m[low];
    return _mm256_blend_epi32(m[low], m[high], 0xf0);
  }

  static BLATAM_INLINE void mix(__m256i& a, __m256i& b, __m256i& c, __m256i& d, __m256i x,
                                __m256i y) {
    a = _mm256_add_epi64(a, x);
    BLATAM_IN_REGISTER("x", a);
    a = _mm256_add_epi64(a, b);
    d = rotate_right<32>(_mm256_xor_si256(d, a));
    c = _mm256_add_epi64(c, d);
    b = rotate_right<24>(_mm256_xor_si256(b, c));
    a = _mm256_add_epi64(a, y);
    BLATAM_IN_REGISTER("x", a);
    a = _mm256_add_epi64(a, b);
    d = rotate_right<16>(_mm256_xor_si256(d, a));
    c = _mm256_add_epi64(c, d);
    b = rotate_right<63>(_mm256_xor_si256(b, c));
  }

  template <int r>
  static BLATAM_INLINE void round(__m256i& a, __m256i& b, __m256i& c, __m256i& d,
                                  const __m256i* m) {
    mix(a, b, c, d,
        words<blake2b_word(r, 0), blake2b_word(r, 2), blake2b_word(r, 4), blake2b_word(r, 6)>(m),
        words<blake2b_word(r, 1), blake2b_word(r, 3), blake2b_word(r, 5), blake2b_word(r, 7)>(m));
    a = _mm256_permute4x64_epi64(a, 0x93);
    c = _mm256_permute4x64_epi64(c, 0x39);
    d = _mm256_permute4x64_epi64(d, 0x4e);
    // Lane i now holds b[i]: the diagonal that begins at a[i - 1].
    mix(a, b, c, d,
        words<blake2b_word(r, 14), blake2b_word(r, 8), blake2b_word(r, 10), blake2b_word(r, 12)>(m),
        words<blake2b_word(r, 15), blake2b_word(r, 9), blake2b_word(r, 11), blake2b_word(r, 13)>(
            m));
    a = _mm256_permute4x64_epi64(a, 0x39);
    c = _mm256_permute4x64_epi64(c, 0x93);
    d = _mm256_permute4x64_epi64(d, 0x4e);
  }
};

#endif

}  // namespace

// ---- the loops, over either form of rounds ------------------------------------------------------

template <class Rounds>
BLATAM_HOST_DEVICE static void blake2b_update(uint64_t* state, const unsigned char* message,
                                              size_t bytes, uint64_t counter, bool last) {
  // A whole final block is left for the end, which flags it; an empty message is a block of zeros.
  const size_t kept = last ? 1 : 0;
  while (bytes >= kBlake2bBlockBytes + kept) {
    counter += kBlake2bBlockBytes;
    Rounds::compress(state, message, counter, 0);
    message += kBlake2bBlockBytes;
    bytes -= kBlake2bBlockBytes;
  }
  if (!last) return;
  unsigned char block[kBlake2bBlockBytes] = {};
  if (bytes > 0) memcpy(block, message, bytes);
  Rounds::compress(state, block, counter + bytes, ~static_cast<uint64_t>(0));
}

template <class Rounds>
BLATAM_HOST_DEVICE static void blake2b_chain(const uint64_t* state, uint64_t counter,
                                             const unsigned char* parent,
                                             const unsigned char* tokens, size_t blocks,
                                             size_t block_bytes, unsigned char* digests) {
  constexpr size_t kDigestBytes = 32;
  constexpr size_t kRoom = kBlake2bBlockBytes - kDigestBytes;
  const size_t beside_parent = block_bytes < kRoom ? block_bytes : kRoom;
  // The digest goes straight from the state to the place where the next block wants it: a way
  // through `digests` would put another store and load on the chain.
  unsigned char block[kBlake2bBlockBytes] = {};
  memcpy(block, parent, kDigestBytes);
  for (size_t i = 0; i < blocks; ++i) {
    uint64_t h[8];
    memcpy(h, state, sizeof h);
    if (block_bytes == 64) {  // the usual 16 tokens: a copy of known length
      memcpy(block + kDigestBytes, tokens, 64);
    } else {
      memcpy(block + kDigestBytes, tokens, beside_parent);
    }
    if (block_bytes <= kRoom) {
      Rounds::compress(h, block, counter + kDigestBytes + block_bytes, ~static_cast<uint64_t>(0));
    } else {
      blake2b_update<Rounds>(h, block, kBlake2bBlockBytes, counter, false);
      blake2b_update<Rounds>(h, tokens + kRoom, block_bytes - kRoom, counter + kBlake2bBlockBytes,
                             true);
    }
    blake2b_digest(h, block);
    blake2b_digest(h, digests);
    digests += kDigestBytes;
    tokens += block_bytes;
  }
}

}  // namespace blatam
