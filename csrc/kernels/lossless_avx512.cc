// The lossless kernels for AVX-512: the loops compiled with the flags of this file; by hand exp4's
// blocks and exp_huff's packing. A block is one vector of bytes: vpermi2b takes every second byte
// of two vectors, or takes turns between them. This object exports one table.
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

// Two bytes for each of 256 symbols, looked up 64 at a time: the lower eight bits of a code, and
// the upper three below its length.
class CodeTable {
 public:
  explicit CodeTable(const uint16_t* codes) {
    for (size_t s = 0; s < 256; ++s) {
      lower_[s] = static_cast<uint8_t>(codes[s] >> 4);
      upper_[s] = static_cast<uint8_t>((codes[s] & 15) << 4 | codes[s] >> 12);
    }
  }
  __m512i lower(__m512i symbols) const { return look_up(lower_, symbols); }
  __m512i upper(__m512i symbols) const { return look_up(upper_, symbols); }

 private:
  // vpermi2b knows 128 bytes: once for either half, and the highest bit chooses.
  static __m512i look_up(const uint8_t* table, __m512i symbols) {
    const auto half = [&](const uint8_t* from) {
      return _mm512_permutex2var_epi8(_mm512_load_si512(from), symbols,
                                      _mm512_load_si512(from + 64));
    };
    return _mm512_mask_mov_epi8(half(table), _mm512_movepi8_mask(symbols), half(table + 128));
  }

  alignas(64) uint8_t lower_[256];
  alignas(64) uint8_t upper_[256];
};

// pack_stream, 64 symbols at a time: neighbouring codes are joined to pairs and pairs to fours, of
// at most 44 bits, and only the fours go through the packer.
size_t pack_stream_by_fours(const uint8_t* symbols, size_t count, const uint16_t* codes,
                            uint8_t* stream) {
  const CodeTable table(codes);
  Packer packer(stream);
  size_t i = 0;
  for (; i + 64 <= count; i += 64) {
    const __m512i some = _mm512_loadu_si512(symbols + i);
    const __m512i lower = table.lower(some);
    const __m512i upper = table.upper(some);
    alignas(64) uint64_t bits[16];
    alignas(64) uint64_t sizes[16];
    const auto join = [&](__m512i words, size_t at) {  // 16 bits: length (4), code (12)
      const __m512i code = _mm512_and_si512(words, _mm512_set1_epi16(0x0fff));
      const __m512i size = _mm512_srli_epi16(words, 12);
      const __m512i low_size = _mm512_and_si512(size, _mm512_set1_epi32(0xffff));
      const __m512i pair =
          _mm512_or_si512(_mm512_and_si512(code, _mm512_set1_epi32(0xffff)),
                          _mm512_sllv_epi32(_mm512_srli_epi32(code, 16), low_size));
      const __m512i pair_size = _mm512_add_epi32(low_size, _mm512_srli_epi32(size, 16));
      const __m512i low_pair_size = _mm512_and_si512(pair_size, _mm512_set1_epi64(0xffffffff));
      _mm512_store_si512(
          bits + at,
          _mm512_or_si512(_mm512_and_si512(pair, _mm512_set1_epi64(0xffffffff)),
                          _mm512_sllv_epi64(_mm512_srli_epi64(pair, 32), low_pair_size)));
      _mm512_store_si512(sizes + at,
                         _mm512_add_epi64(low_pair_size, _mm512_srli_epi64(pair_size, 32)));
    };
    join(_mm512_unpacklo_epi8(lower, upper), 0);
    join(_mm512_unpackhi_epi8(lower, upper), 8);
    for (size_t lane = 0; lane < 8; lane += 2)  // unpacking goes by lanes of sixteen symbols
      for (size_t j = 0; j < 4; ++j) {
        const size_t four = lane + (j & 1) + (j >> 1) * 8;
        packer.put(bits[four], sizes[four]);
        packer.send();
      }
  }
  pack_symbols(symbols + i, count - i, codes, packer);
  return packer.end();
}

}  // namespace

const LosslessKernels kLosslessAvx512 = {
    "avx512",
    {kExp4Loops<Avx512Blocks, Dtype::bf16>, kExp4Loops<Avx512Blocks, Dtype::fp16>,
     kExp4Loops<Avx512Blocks, Dtype::fp32>},
    huff_kernels(pack_stream_by_fours),
};

}  // namespace blatam
