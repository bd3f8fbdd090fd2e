// Digests and checksums without Python, every implementation of this machine beside the others:
//   core_bench --benchmark_filter='chain|hash|crc32c|memcpy' --benchmark_repetitions=9
// Targets (ARCHITECTURE.md): a chained 16-token block <= 140 ns; CRC-32C near memcpy. Each answer
// is compared with the portable one before it is timed. bench/digest.py has the named peers.
#include "core/digest.h"

#include <benchmark/benchmark.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "core/crc32c.h"

namespace blatam {
namespace {

template <class T>
std::vector<T> some_tokens(size_t count) {
  std::vector<T> tokens(count);
  for (size_t i = 0; i < count; ++i) tokens[i] = static_cast<T>(i * 2654435761u % 151936);
  return tokens;
}

template <class T>
void chain(benchmark::State& state, const Blake2b& implementation, size_t count,
           size_t block_tokens) {
  const std::vector<uint8_t> salt(32, 7);
  const DigestKey key(salt, {}, implementation);
  const std::vector<T> tokens = some_tokens<T>(count);
  std::vector<Digest> out(count / block_tokens);
  std::vector<Digest> expected(out.size());
  if (chain_blocks(key, {}, tokens.data(), count, block_tokens, out.data()) != kAllTokensValid ||
      chain_blocks(DigestKey(salt, {}, kBlake2bBaseline), {}, tokens.data(), count, block_tokens,
                   expected.data()) != kAllTokensValid ||
      out != expected)
    return state.SkipWithError("differs from baseline");
  for (auto _ : state) {
    benchmark::DoNotOptimize(chain_blocks(key, {}, tokens.data(), count, block_tokens, out.data()));
    benchmark::ClobberMemory();
  }
  state.counters["per_block"] = benchmark::Counter(
      static_cast<double>(out.size()),
      benchmark::Counter::kIsIterationInvariantRate | benchmark::Counter::kInvert);
}

void hash(benchmark::State& state, const Blake2b& implementation, size_t bytes) {
  const DigestKey key({}, {}, implementation);
  const std::vector<uint8_t> message(bytes, 3);
  if (!(key.hash(message) == DigestKey({}, {}, kBlake2bBaseline).hash(message)))
    return state.SkipWithError("differs from baseline");
  for (auto _ : state) benchmark::DoNotOptimize(key.hash(message));
  state.SetBytesProcessed(static_cast<int64_t>(bytes) * state.iterations());
}

void checksum(benchmark::State& state, const Crc32c& implementation, size_t bytes) {
  const std::vector<uint8_t> data(bytes, 3);
  if (implementation.extend(0, data.data(), bytes) !=
      all_crc32c().front()->extend(0, data.data(), bytes))
    return state.SkipWithError("differs from baseline");
  for (auto _ : state) benchmark::DoNotOptimize(implementation.extend(0, data.data(), bytes));
  state.SetBytesProcessed(static_cast<int64_t>(bytes) * state.iterations());
}

void copy(benchmark::State& state, size_t bytes) {
  const std::vector<uint8_t> from(bytes, 3);
  std::vector<uint8_t> to(bytes);
  for (auto _ : state) {
    std::memcpy(to.data(), from.data(), bytes);
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(static_cast<int64_t>(bytes) * state.iterations());
}

void combine(benchmark::State& state) {
  uint32_t crc = 1;
  for (auto _ : state) benchmark::DoNotOptimize(crc = crc32c_combine(crc, 5, 0xfffff));
}

constexpr size_t kSizes[] = {64, 1024, 65536, 1u << 20};

const bool kRegistered = [] {
  for (const Blake2b* one : all_blake2b()) {
    const std::string isa = std::string("/") + one->isa;
    const auto chained = [&](const char* name, auto type, size_t count, size_t block_tokens) {
      benchmark::RegisterBenchmark((name + isa).c_str(), chain<decltype(type)>, *one, count,
                                   block_tokens);
    };
    chained("chain/16_tokens", int32_t{}, 16 * 1024, 16);
    chained("chain/64_tokens", int32_t{}, 64 * 1024, 64);
    chained("chain/16_tokens_int64", int64_t{}, 16 * 1024, 16);
    chained("chain/128k_tokens_by_64", int32_t{}, 128 * 1024, 64);
    for (const size_t bytes : kSizes)
      benchmark::RegisterBenchmark(("hash/" + std::to_string(bytes) + isa).c_str(), hash, *one,
                                   bytes);
  }
  for (const size_t bytes : kSizes) {
    for (const Crc32c* one : all_crc32c())
      benchmark::RegisterBenchmark(("crc32c/" + std::to_string(bytes) + "/" + one->isa).c_str(),
                                   checksum, *one, bytes);
    benchmark::RegisterBenchmark(("memcpy/" + std::to_string(bytes)).c_str(), copy, bytes);
  }
  benchmark::RegisterBenchmark("crc32c_combine/1_MiB", combine);
  return true;
}();

}  // namespace
}  // namespace blatam
