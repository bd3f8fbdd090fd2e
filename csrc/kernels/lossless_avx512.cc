// The lossless kernels for AVX-512: the loops compiled with the flags of this file, and exp4's
// blocks by hand. A block is one vector of bytes: vpermi2b takes every second byte of two vectors,
// or takes turns between them. This object exports one table.
#include <immintrin.h>

#include "kernels/exp4_loops.h"
#include "kernels/huffman_loops.h"

namespace blatam {
namespace {

alignas(64) constexpr uint8_t kEven[64] = {
    0,  2,  4,   6,   8,   10,  12,  14,  16,  18,  20,  22,  24,  26,  28,  30,
    32, 34, 36,  38,  40,  42,  44,  46,  48,  50,  52,  54,  56,  58,  60,  62,
    64, 66, 68,  70,  72,  74,  76,  78,  80,  82,  84,  86,  88,  90,  92,  94,
    96, 98, 100, 102, 104, 106, 108, 110, 112, 114, 116, 118, 120, 122, 124, 126};
alignas(64) constexpr uint8_t kTurns[64] = {
    0,  64, 1,  65, 2,  66, 3,  67, 4,  68, 5,  69, 6,  70, 7,  71, 8,  72, 9,  73, 10, 74,
    11, 75, 12, 76, 13, 77, 14, 78, 15, 79, 16, 80, 17, 81, 18, 82, 19, 83, 20, 84, 21, 85,
    22, 86, 23, 87, 24, 88, 25, 89, 26, 90, 27, 91, 28, 92, 29, 93, 30, 94, 31, 95};

struct Avx512Blocks : PlainBlocks {
  static __m512i bytes(int value) { return _mm512_set1_epi8(static_cast<char>(value)); }
  // The bits of `a` where `mask` has ones, else those of `b`.
  static __m512i choose(__m512i mask, __m512i a, __m512i b) {
    return _mm512_ternarylogic_epi32(mask, a, b, 0xca);
  }

  // Stores the rests of 64 patterns and returns their tops.
  static __m512i take(const uint8_t* patterns, uint8_t* rests) {
    const __m512i even = _mm512_load_si512(kEven);
    const __m512i odd = _mm512_or_si512(even, bytes(1));
    const __m512i first = _mm512_loadu_si512(patterns);
    const __m512i second = _mm512_loadu_si512(patterns + 64);
    const __m512i low = _mm512_permutex2var_epi8(first, even, second);
    const __m512i high = _mm512_permutex2var_epi8(first, odd, second);
    _mm512_storeu_si512(rests, choose(bytes(0x80), high, low));
    return _mm512_permutex2var_epi8(_mm512_srli_epi16(first, 7), even,
                                    _mm512_srli_epi16(second, 7));
  }
  static void put(__m512i tops, const uint8_t* rests, uint8_t* patterns) {
    const __m512i turns = _mm512_load_si512(kTurns);
    const __m512i rest = _mm512_loadu_si512(rests);
    // What shifts carry over from the byte beside is outside the mask.
    const __m512i low = choose(bytes(0x80), _mm512_slli_epi16(tops, 7), rest);
    const __m512i high = choose(bytes(0x80), rest, _mm512_srli_epi16(tops, 1));
    _mm512_storeu_si512(patterns, _mm512_permutex2var_epi8(low, turns, high));
    _mm512_storeu_si512(patterns + 64,
                        _mm512_permutex2var_epi8(low, _mm512_or_si512(turns, bytes(32)), high));
  }
  static __m512i codes_of(__m512i exponents, uint8_t largest) {
    return _mm512_min_epu8(_mm512_sub_epi8(bytes(largest), exponents), bytes(kEscapeCode));
  }

  static uint64_t encode_nibbles(const uint8_t* patterns, uint8_t largest, uint8_t* codes,
                                 uint8_t* rests) {
    const __m512i code = codes_of(take(patterns, rests), largest);
    const __m256i packed = _mm256_or_si256(
        _mm512_castsi512_si256(code), _mm256_slli_epi16(_mm512_extracti64x4_epi64(code, 1), 4));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes), packed);
    return _mm512_cmpeq_epi8_mask(code, bytes(kEscapeCode));
  }
  static unsigned decode_nibbles(const uint8_t* codes, const uint8_t* rests, uint8_t largest,
                                 uint8_t* patterns) {
    const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes));
    const __m512i code = _mm512_and_si512(
        _mm512_inserti64x4(_mm512_castsi256_si512(both), _mm256_srli_epi16(both, 4), 1),
        bytes(kEscapeCode));
    put(_mm512_sub_epi8(bytes(largest), code), rests, patterns);
    return count(_mm512_cmpeq_epi8_mask(code, bytes(kEscapeCode)));
  }

  static uint64_t encode_sevens(const uint8_t* patterns, uint8_t largest, uint8_t* codes,
                                uint8_t* rests) {
    const __m512i tops = take(patterns, rests);
    const __m512i exponents = _mm512_and_si512(_mm512_srli_epi16(tops, 3), bytes(31));
    const __m512i code = codes_of(exponents, largest);
    uint8_t sevens[kCodeBlock];
    _mm512_storeu_si512(sevens, choose(bytes(7), tops, _mm512_slli_epi16(code, 3)));
    pack_sevens(sevens, codes);
    return _mm512_cmpeq_epi8_mask(code, bytes(kEscapeCode));
  }
  static unsigned decode_sevens(const uint8_t* codes, const uint8_t* rests, uint8_t largest,
                                uint8_t* patterns) {
    const __m512i packed = _mm512_maskz_loadu_epi8(~uint64_t{0} >> 8, codes);
    const __m512i sevens = _mm512_mask_set1_epi64(_mm512_and_si512(packed, bytes(0x7f)), 0x80,
                                                  static_cast<int64_t>(last_sevens(codes)));
    const __m512i code = _mm512_and_si512(sevens, bytes(0x78));
    const __m512i exponents = _mm512_sub_epi8(bytes(static_cast<uint8_t>(largest << 3)), code);
    put(choose(bytes(7), sevens, exponents), rests, patterns);
    return count(_mm512_cmpeq_epi8_mask(code, bytes(kEscapeCode << 3)));
  }

  static unsigned count(__mmask64 mask) {
    return static_cast<unsigned>(__builtin_popcountll(mask));
  }
};

}  // namespace

const LosslessKernels kLosslessAvx512 = {
    "avx512",
    {kExp4Loops<Avx512Blocks, Dtype::bf16>, kExp4Loops<Avx512Blocks, Dtype::fp16>,
     kExp4Loops<Avx512Blocks, Dtype::fp32>},
    kHuffLoops,
};

}  // namespace blatam
