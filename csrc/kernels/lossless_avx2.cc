// The lossless kernels for AVX2: the loops compiled with the flags of this file, and exp4's blocks
// by hand. This object exports one table.
#include <immintrin.h>

#include "kernels/exp4_loops.h"
#include "kernels/huffman_loops.h"

namespace blatam {
namespace {

struct Avx2Blocks : PlainBlocks {
  static __m256i load(const uint8_t* from) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  }
  static void store(uint8_t* to, __m256i bytes) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), bytes);
  }
  // The bytes of two vectors of 16-bit numbers below 256, in order: packing goes by halves.
  static __m256i narrow(__m256i low, __m256i high) {
    return _mm256_permute4x64_epi64(_mm256_packus_epi16(low, high), 0xd8);
  }

  static __m256i bytes(int value) { return _mm256_set1_epi8(static_cast<char>(value)); }

  // Stores the rests of 32 patterns and returns their tops.
  static __m256i take(const uint8_t* patterns, uint8_t* rests) {
    const __m256i first = load(patterns);
    const __m256i second = load(patterns + 32);
    const auto top = [](__m256i x) {
      return _mm256_and_si256(_mm256_srli_epi16(x, 7), _mm256_set1_epi16(255));
    };
    const auto rest = [](__m256i x) {
      return _mm256_or_si256(_mm256_and_si256(x, _mm256_set1_epi16(0x7f)),
                             _mm256_and_si256(_mm256_srli_epi16(x, 8), _mm256_set1_epi16(0x80)));
    };
    store(rests, narrow(rest(first), rest(second)));
    return narrow(top(first), top(second));
  }
  static void put(__m256i tops, const uint8_t* rests, uint8_t* patterns) {
    const __m256i rest = load(rests);
    // What shifts carry over from the byte beside is outside the mask.
    const __m256i sign = bytes(0x80);
    const __m256i lower = _mm256_or_si256(_mm256_andnot_si256(sign, rest),
                                          _mm256_and_si256(sign, _mm256_slli_epi16(tops, 7)));
    const __m256i upper = _mm256_or_si256(_mm256_and_si256(sign, rest),
                                          _mm256_andnot_si256(sign, _mm256_srli_epi16(tops, 1)));
    const __m256i first = _mm256_unpacklo_epi8(lower, upper);
    const __m256i second = _mm256_unpackhi_epi8(lower, upper);
    store(patterns, _mm256_permute2x128_si256(first, second, 0x20));
    store(patterns + 32, _mm256_permute2x128_si256(first, second, 0x31));
  }
  static __m256i codes_of(__m256i exponents, uint8_t largest) {
    return _mm256_min_epu8(_mm256_sub_epi8(bytes(largest), exponents), bytes(kEscapeCode));
  }
  // Which bytes equal `value`, and how many.
  static uint32_t places(__m256i x, int value) {
    return static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_cmpeq_epi8(x, bytes(value))));
  }
  static unsigned count(__m256i x, int value) {
    return static_cast<unsigned>(__builtin_popcount(places(x, value)));
  }

  static uint64_t encode_nibbles(const uint8_t* patterns, uint8_t largest, uint8_t* codes,
                                 uint8_t* rests) {
    const __m256i low = codes_of(take(patterns, rests), largest);
    const __m256i high = codes_of(take(patterns + 64, rests + 32), largest);
    store(codes, _mm256_or_si256(low, _mm256_slli_epi16(high, 4)));
    return places(low, kEscapeCode) | static_cast<uint64_t>(places(high, kEscapeCode)) << 32;
  }
  static unsigned decode_nibbles(const uint8_t* codes, const uint8_t* rests, uint8_t largest,
                                 uint8_t* patterns) {
    const __m256i both = load(codes);
    const __m256i low = _mm256_and_si256(both, bytes(kEscapeCode));
    const __m256i high = _mm256_and_si256(_mm256_srli_epi16(both, 4), bytes(kEscapeCode));
    put(_mm256_sub_epi8(bytes(largest), low), rests, patterns);
    put(_mm256_sub_epi8(bytes(largest), high), rests + 32, patterns + 64);
    return count(low, kEscapeCode) + count(high, kEscapeCode);
  }

  static uint64_t encode_sevens(const uint8_t* patterns, uint8_t largest, uint8_t* codes,
                                uint8_t* rests) {
    uint8_t sevens[kCodeBlock];
    uint64_t escapes = 0;
    for (size_t i = 0; i < kCodeBlock; i += 32) {
      const __m256i tops = take(patterns + 2 * i, rests + i);
      const __m256i code =
          codes_of(_mm256_and_si256(_mm256_srli_epi16(tops, 3), bytes(31)), largest);
      store(sevens + i,
            _mm256_or_si256(_mm256_slli_epi16(code, 3), _mm256_and_si256(tops, bytes(7))));
      escapes |= static_cast<uint64_t>(places(code, kEscapeCode)) << i;
    }
    pack_sevens(sevens, codes);
    return escapes;
  }
  static unsigned decode_sevens(const uint8_t* codes, const uint8_t* rests, uint8_t largest,
                                uint8_t* patterns) {
    const __m256i top = bytes(static_cast<uint8_t>(largest << 3));
    unsigned escapes = 0;
    for (size_t i = 0; i < kCodeBlock; i += 32) {
      __m256i sevens = _mm256_and_si256(load(codes + i), bytes(0x7f));
      if (i != 0)  // the last eight bytes are not of the codes
        sevens = _mm256_insert_epi64(sevens, static_cast<int64_t>(last_sevens(codes)), 3);
      const __m256i code = _mm256_and_si256(sevens, bytes(0x78));
      put(_mm256_or_si256(_mm256_and_si256(_mm256_sub_epi8(top, code), bytes(0xf8)),
                          _mm256_and_si256(sevens, bytes(7))),
          rests + i, patterns + 2 * i);
      escapes += count(code, kEscapeCode << 3);
    }
    return escapes;
  }
};

}  // namespace

const LosslessKernels kLosslessAvx2 = {
    "avx2",
    {kExp4Loops<Avx2Blocks, Dtype::bf16>, kExp4Loops<Avx2Blocks, Dtype::fp16>,
     kExp4Loops<Avx2Blocks, Dtype::fp32>},
    huff_kernels(pack_stream),
};

}  // namespace blatam
