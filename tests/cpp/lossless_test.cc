// The lossless codecs on every instruction set: the same bytes, the same values, and no step
// outside the memory they are given, whatever a blob contains. The Python tests compare the bytes
// with a slow reference; here hostile payloads meet the sanitizers.
#include "kernels/lossless.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "core/isa.h"
#include "kernels/codec.h"
#include "kernels/prefix_code.h"

namespace blatam {
namespace {

using Bytes = std::vector<uint8_t>;
using Random = std::mt19937_64;

constexpr std::array kCodecs = {"exp4", "exp_huff"};
constexpr std::array kDtypes = {Dtype::bf16, Dtype::fp16, Dtype::fp32};

// Kernels of an instruction set; of the lossy ones the baseline's, which nothing here calls.
Kernels kernels_of(Isa isa) {
  Kernels kernels = kKernelsBaseline;
  kernels.isa = isa_name(isa);
  return kernels;
}

// Values as a model makes them, with zeros and a few that are anything.
Bytes some_values(Dtype dtype, size_t count, unsigned seed) {
  Random random(seed);
  std::normal_distribution<float> normal(0.0f, 1.5f);
  Bytes values(count * dtype_bytes(dtype));
  for (size_t i = 0; i < count; ++i) {
    const float x = i % 97 == 0 ? 0.0f : normal(random);
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    if (dtype == Dtype::fp16) {
      const uint32_t exponent = bits >> 23 & 255u;
      const uint32_t mantissa = bits >> 13 & 0x3ffu;
      bits = bits >> 16 & 0x8000u;
      if (exponent > 112) bits |= (exponent - 112) << 10 | mantissa;
    } else if (dtype == Dtype::bf16) {
      bits >>= 16;
    }
    if (random() % 200 == 0) bits = static_cast<uint32_t>(random());
    std::memcpy(values.data() + i * dtype_bytes(dtype), &bits, dtype_bytes(dtype));
  }
  return values;
}

Source source_of(const Bytes& values, Dtype dtype) {
  const auto width = static_cast<int64_t>(dtype_bytes(dtype));
  return {values.data(), {values.size() / dtype_bytes(dtype), 1, 1}, dtype, width, width};
}

// The payload alone, without the blob around it.
Bytes encode(const Scheme& scheme, const Job& job, const Source& source) {
  Bytes payload(scheme.most_bytes(source.shape, source.dtype));
  payload.resize(scheme.encode(job, source, payload));
  return payload;
}

// Decodes from a buffer of exactly the payload's size, so that a read beyond it is seen.
const char* decode(const Scheme& scheme, const Job& job, std::span<const uint8_t> payload,
                   Dtype dtype, Bytes& values) {
  const auto width = static_cast<int64_t>(dtype_bytes(dtype));
  const Target target = {
      values.data(), {values.size() / dtype_bytes(dtype), 1, 1}, dtype, width, width};
  if (payload.size() < scheme.least_bytes(target.shape, dtype)) return "too short";
  const auto exact = std::make_unique<uint8_t[]>(payload.size());
  std::copy(payload.begin(), payload.end(), exact.get());
  return scheme.decode(job, {exact.get(), payload.size()}, target);
}

template <class Check>
void each_codec(const Check& check) {
  for (const char* name : kCodecs)
    for (const Dtype dtype : kDtypes) {
      SCOPED_TRACE(std::string(name) + ", dtype " + std::to_string(static_cast<int>(dtype)));
      check(find_codec(name)->scheme(Kind::value), dtype);
    }
}

TEST(Lossless, EveryInstructionSetWritesTheSameBytesAndReadsThemBack) {
  each_codec([](const Scheme& scheme, Dtype dtype) {
    for (const size_t count :
         {0u, 1u, 2u, 63u, 64u, 65u, 255u, 256u, 1000u, 1023u, 1024u, 1025u, 65537u}) {
      const Bytes values = some_values(dtype, count, 1);
      const Bytes expected = encode(scheme, {}, source_of(values, dtype));
      for (const Isa isa : supported_isas()) {
        const Kernels kernels = kernels_of(isa);
        for (const unsigned threads : {1u, 3u}) {
          const Job job = {kernels, threads, 0};
          ASSERT_EQ(encode(scheme, job, source_of(values, dtype)), expected)
              << isa_name(isa) << " " << count;
          Bytes back(values.size());
          ASSERT_EQ(decode(scheme, job, expected, dtype, back), nullptr)
              << isa_name(isa) << " " << count;
          ASSERT_EQ(back, values) << isa_name(isa) << " " << count;
        }
      }
    }
  });
}

TEST(Lossless, LargeOutputsAroundTheCachesAreTheSame) {
  // Beyond the size from which stores pass the caches by, at every place in a cache line.
  for (const Dtype dtype : {Dtype::bf16, Dtype::fp32}) {
    const Bytes values = some_values(dtype, (3u << 19) / dtype_bytes(dtype) + 77, 2);
    for (const char* name : kCodecs) {
      const Scheme& scheme = find_codec(name)->scheme(Kind::value);
      const Bytes expected = encode(scheme, {}, source_of(values, dtype));
      Bytes room(scheme.most_bytes(source_of(values, dtype).shape, dtype) + 64);
      Bytes back(values.size() + 64);
      for (const Isa isa : supported_isas()) {
        const Kernels kernels = kernels_of(isa);
        for (const size_t shift : {2u, 63u}) {
          const uint64_t bytes =
              scheme.encode({kernels}, source_of(values, dtype), std::span(room).subspan(shift));
          ASSERT_EQ(bytes, expected.size());
          ASSERT_TRUE(std::equal(expected.begin(), expected.end(), room.begin() + shift));
          const auto width = static_cast<int64_t>(dtype_bytes(dtype));
          const Target target = {back.data() + shift, source_of(values, dtype).shape, dtype, width,
                                 width};
          ASSERT_EQ(scheme.decode({kernels}, expected, target), nullptr);
          ASSERT_TRUE(std::equal(values.begin(), values.end(), back.begin() + shift));
        }
      }
    }
  }
}

TEST(Lossless, AStridedTensorGivesTheBytesOfACompactOne) {
  each_codec([](const Scheme& scheme, Dtype dtype) {
    constexpr size_t kTokens = 700, kHeads = 3, kDim = 40, kGap = 5;
    const size_t width = dtype_bytes(dtype);
    const Shape shape = {kTokens, kHeads, kDim};
    const Bytes values = some_values(dtype, kTokens * kHeads * kDim, 3);
    const auto strides = [&](size_t head_gap, size_t token_gap) {
      const size_t head = (kDim + head_gap) * width;
      return std::pair(static_cast<int64_t>(head * kHeads + token_gap * width),
                       static_cast<int64_t>(head));
    };
    const auto [token0, head0] = strides(0, 0);
    const Bytes expected = encode(scheme, {}, {values.data(), shape, dtype, token0, head0});
    for (const auto& [head_gap, token_gap] : {std::pair<size_t, size_t>{0, kGap}, {kGap, 0}}) {
      const auto [token_bytes, head_bytes] = strides(head_gap, token_gap);
      Bytes wide(static_cast<size_t>(token_bytes) * kTokens);
      const Target view = {wide.data(), shape, dtype, token_bytes, head_bytes};
      for (const unsigned threads : {1u, 2u}) {
        ASSERT_EQ(scheme.decode({kKernelsBaseline, threads, 0}, expected, view), nullptr);
        const Source source = {wide.data(), shape, dtype, token_bytes, head_bytes};
        ASSERT_EQ(encode(scheme, {kKernelsBaseline, threads, 0}, source), expected);
      }
    }
  });
}

TEST(Lossless, APayloadThatFitsIsWrittenAndOneThatDoesNotSaysItsSize) {
  each_codec([](const Scheme& scheme, Dtype dtype) {
    const Bytes values = some_values(dtype, 5000, 4);
    const Bytes expected = encode(scheme, {}, source_of(values, dtype));
    Bytes exact(expected.size());
    EXPECT_EQ(scheme.encode({}, source_of(values, dtype), exact), expected.size());
    EXPECT_EQ(exact, expected);
    Bytes small(expected.size() - 1, 7);
    EXPECT_EQ(scheme.encode({}, source_of(values, dtype), small), expected.size());
  });
}

// What a stranger may send: a good payload with bytes changed, cut off, put in or moved, or noise.
Bytes altered(const Bytes& good, Random& random) {
  Bytes bad = good;
  const auto place = [&] { return static_cast<ptrdiff_t>(random() % (bad.size() + 1)); };
  switch (random() % 6) {
    case 0:
      bad.resize(random() % (bad.size() + 1));
      break;
    case 1:
      bad.insert(bad.begin() + place(), random() % 9, static_cast<uint8_t>(random()));
      break;
    case 2:
      for (uint8_t& byte : bad) byte = static_cast<uint8_t>(random());
      break;
    case 3:  // the front, where the lengths are
      for (uint64_t i = 1 + random() % 8; i > 0 && !bad.empty(); --i)
        bad[random() % std::min<size_t>(bad.size(), 64)] = static_cast<uint8_t>(random());
      break;
    case 4: {
      const ptrdiff_t a = place(), b = place();
      std::rotate(bad.begin() + std::min(a, b), bad.begin() + (a + b) / 2,
                  bad.begin() + std::max(a, b));
      break;
    }
    default:
      for (uint64_t i = 1 + random() % 3; i > 0 && !bad.empty(); --i)
        bad[random() % bad.size()] ^= static_cast<uint8_t>(1u << random() % 8);
  }
  return bad;
}

TEST(Lossless, AHostilePayloadIsRefusedOrDecodedInsideItsMemory) {
  Random random(5);
  each_codec([&](const Scheme& scheme, Dtype dtype) {
    for (const size_t count : {1u, 70u, 300u, 1500u, 5000u}) {
      const Bytes good = encode(scheme, {}, source_of(some_values(dtype, count, 6), dtype));
      for (int round = 0; round < 250; ++round) {
        const Bytes bad = altered(good, random);
        const char* verdict = nullptr;
        Bytes first;
        for (const Isa isa : supported_isas()) {
          const Kernels kernels = kernels_of(isa);
          Bytes values(count * dtype_bytes(dtype));
          const char* here = decode(scheme, {kernels}, bad, dtype, values);
          if (isa == Isa::baseline) {
            verdict = here;
            first = values;
          }
          ASSERT_EQ(here == nullptr, verdict == nullptr) << isa_name(isa);
          if (here == nullptr) {
            ASSERT_EQ(values, first) << isa_name(isa);
          }
        }
      }
    }
  });
}

TEST(Lossless, EveryCutPayloadIsRefused) {
  each_codec([](const Scheme& scheme, Dtype dtype) {
    const Bytes good = encode(scheme, {}, source_of(some_values(dtype, 1100, 7), dtype));
    for (size_t bytes = 0; bytes < good.size(); ++bytes) {
      Bytes values(1100 * dtype_bytes(dtype));
      ASSERT_NE(decode(scheme, {}, std::span(good).first(bytes), dtype, values), nullptr) << bytes;
    }
  });
}

// ---- prefix codes -------------------------------------------------------------------------------

uint64_t cost(std::span<const uint32_t, kSymbols> counts,
              std::span<const uint8_t, kSymbols> lengths) {
  uint64_t bits = 0;
  for (size_t s = 0; s < kSymbols; ++s) bits += uint64_t{counts[s]} * lengths[s];
  return bits;
}

// Huffman's own algorithm, as long as it gives no code beyond the limit.
uint64_t unlimited_cost(std::span<const uint32_t, kSymbols> counts, int* longest) {
  std::vector<std::pair<uint64_t, int>> trees;  // weight, height
  for (const uint32_t count : counts)
    if (count != 0) trees.emplace_back(count, 0);
  uint64_t bits = 0;
  while (trees.size() > 1) {
    std::sort(trees.begin(), trees.end(), std::greater<>());
    const auto a = trees.back();
    trees.pop_back();
    const auto b = trees.back();
    trees.back() = {a.first + b.first, std::max(a.second, b.second) + 1};
    bits += a.first + b.first;
  }
  *longest = trees[0].second;
  return bits;
}

TEST(PrefixCode, IsCompleteWithinElevenBitsAndAsShortAsHuffmans) {
  Random random(8);
  int compared = 0;
  for (int round = 0; round < 300; ++round) {
    std::array<uint32_t, kSymbols> counts{};
    const size_t symbols = 2 + random() % (round % 2 ? 255 : 20);
    const unsigned spread = static_cast<unsigned>(1 + random() % 16);
    for (size_t i = 0; i < symbols; ++i)
      counts[random() % kSymbols] =
          static_cast<uint32_t>(1 + (random() % 65536 >> random() % spread));
    counts[0] = counts[255] = 1;
    std::array<uint8_t, kSymbols> lengths;
    code_lengths(counts, lengths);
    ASSERT_TRUE(complete_code(lengths));
    for (size_t s = 0; s < kSymbols; ++s) {
      ASSERT_EQ(lengths[s] == 0, counts[s] == 0);
      ASSERT_LE(lengths[s], kLongestCode);
    }
    int longest = 0;
    const uint64_t least = unlimited_cost(counts, &longest);
    if (longest <= kLongestCode) {
      ++compared;
      ASSERT_EQ(cost(counts, lengths), least);
    } else {
      ASSERT_GE(cost(counts, lengths), least);
    }
  }
  EXPECT_GT(compared, 50);
}

TEST(PrefixCode, OfCountsLikeFibonaccisStaysWithinTheLimit) {
  std::array<uint32_t, kSymbols> counts{};
  counts[0] = counts[1] = 1;
  for (size_t s = 2; s < 40; ++s) counts[s] = counts[s - 1] + counts[s - 2];
  std::array<uint8_t, kSymbols> lengths;
  code_lengths(counts, lengths);
  EXPECT_TRUE(complete_code(lengths));
  EXPECT_EQ(*std::max_element(lengths.begin(), lengths.end()), kLongestCode);
}

}  // namespace
}  // namespace blatam
