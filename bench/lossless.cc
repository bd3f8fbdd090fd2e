// The lossless codecs without Python: whole payloads on every instruction set, and the parts of
// exp_huff by themselves.
//   kernel_bench --benchmark_filter='^copy|^exp' --benchmark_repetitions=9
//     --benchmark_enable_random_interleaving=true
// Rates are of uncompressed bytes and thread CPU time. Targets for bf16: exp4 encodes at 0.6 and
// decodes at 0.8 of the faster copy (bench/kernels.cc); exp_huff encodes 1 GB/s and decodes 2 GB/s.
// Each payload is decoded and compared before it is timed.
#include "kernels/lossless.h"

#include <benchmark/benchmark.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "core/isa.h"
#include "kernels/codec.h"
#include "kernels/prefix_code.h"

namespace blatam {
namespace {

constexpr size_t kBytes = size_t{64} << 20;
constexpr std::array kDtypeNames = {"bf16", "fp16", "fp32"};

// Memory that begins a cache line, touched once.
struct Room {
  explicit Room(size_t bytes) : data(bytes + 64, 1) {}
  uint8_t* get() { return data.data() + (64 - reinterpret_cast<uintptr_t>(data.data()) % 64) % 64; }
  std::vector<uint8_t> data;
};

// 1,024 channels of normal values; each has its spread, and one in 32 a mean far from zero.
Room& values_of(Dtype dtype) {
  static std::array<std::unique_ptr<Room>, 3> made;
  std::unique_ptr<Room>& room = made[static_cast<size_t>(dtype)];
  if (room) return *room;
  room = std::make_unique<Room>(kBytes);
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::array<float, 1024> spread;
  std::array<float, 1024> mean;
  for (size_t c = 0; c < spread.size(); ++c) {
    spread[c] = std::exp(0.4f * normal(random));
    mean[c] = c % 32 == 0 ? 10.0f : 0.3f * normal(random);
  }
  const size_t width = dtype_bytes(dtype);
  constexpr size_t kDistinct = size_t{8} << 20;
  for (size_t i = 0; i < kDistinct / width; ++i) {
    const float x = mean[i % 1024] + spread[i % 1024] * normal(random);
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    if (dtype == Dtype::bf16) bits = (bits + 0x8000u) >> 16;
    if (dtype == Dtype::fp16) {
      const uint32_t exponent = bits >> 23 & 255u;
      bits = (bits >> 16 & 0x8000u) |
             (exponent > 112 ? (exponent - 112) << 10 | (bits >> 13 & 0x3ffu) : 0u);
    }
    std::memcpy(room->get() + i * width, &bits, width);
  }
  for (size_t at = kDistinct; at < kBytes; at += kDistinct)
    std::memcpy(room->get() + at, room->get(), kDistinct);
  return *room;
}

Room& output() {
  static Room room(kBytes + (kBytes >> 6));
  return room;
}

void count_bytes(benchmark::State& state, size_t bytes) {
  state.SetBytesProcessed(static_cast<int64_t>(bytes) * state.iterations());
}

void whole(benchmark::State& state, const char* codec, Dtype dtype, Isa isa, bool encode) {
  const Scheme& scheme = find_codec(codec)->scheme(Kind::value);
  const Job job = {kernels_for(isa_name(isa))};
  const auto width = static_cast<int64_t>(dtype_bytes(dtype));
  const Shape shape = {kBytes / 1024 / dtype_bytes(dtype), 8, 128};
  const Source source = {values_of(dtype).get(), shape, dtype, 1024 * width, 128 * width};
  static Room packed(kBytes + (kBytes >> 6));
  const std::span room(packed.get(), kBytes + (kBytes >> 6));
  const uint64_t bytes = scheme.encode(job, source, room);
  const Target target = {output().get(), shape, dtype, 1024 * width, 128 * width};
  const auto back = [&] { return scheme.decode(job, room.first(bytes), target); };
  if (back() != nullptr || std::memcmp(output().get(), values_of(dtype).get(), kBytes) != 0)
    return state.SkipWithError("does not come back");
  for (auto _ : state) {
    if (encode)
      benchmark::DoNotOptimize(scheme.encode(job, source, room));
    else
      benchmark::DoNotOptimize(back());
    benchmark::ClobberMemory();
  }
  count_bytes(state, kBytes);
  state.counters["ratio"] = static_cast<double>(kBytes) / static_cast<double>(bytes);
}

// One block of 65,536 bf16 values in the second-level cache.
void part(benchmark::State& state, const std::string& name, Isa isa) {
  constexpr size_t kBlock = 65536;
  const HuffKernels& kernels = lossless_for(isa_name(isa)).huff;
  const uint8_t* values = values_of(Dtype::bf16).get();
  static uint8_t planes[2][kBlock];
  uint8_t* const split[] = {planes[0], planes[1], nullptr, nullptr};
  const uint8_t* const joined[] = {planes[0], planes[1], nullptr, nullptr};
  kernels.split(values, kBlock, 2, split);
  std::array<uint32_t, kSymbols> counts{};
  kernels.count(planes[0], kBlock, counts.data());
  std::array<uint8_t, kSymbols> lengths;
  code_lengths(counts, lengths);
  std::array<uint16_t, kSymbols> codes;
  canonical_codes(lengths, codes);
  static DecodeTable table;
  decode_table(lengths, table);
  static uint8_t streams[2 * kBlock];
  std::array<uint16_t, kStreams> bytes;
  const auto pack = [&] {
    uint8_t* at = streams;
    for (size_t s = 0; s < kStreams; ++s) {
      const size_t begin = stream_begin(s, kBlock);
      const size_t size =
          kernels.pack(planes[0] + begin, stream_begin(s + 1, kBlock) - begin, codes.data(), at);
      bytes[s] = static_cast<uint16_t>(size);
      at += size;
    }
  };
  pack();
  static uint8_t symbols[kBlock];
  static uint8_t merged[2 * kBlock];
  for (auto _ : state) {
    if (name == "split") kernels.split(values, kBlock, 2, split);
    if (name == "count") kernels.count(planes[0], kBlock, counts.data());
    if (name == "lengths") code_lengths(counts, lengths);
    if (name == "pack") pack();
    if (name == "table") decode_table(lengths, table);
    if (name == "unpack") kernels.unpack(streams, bytes.data(), table, kBlock, symbols);
    if (name == "merge") kernels.merge(joined, kBlock, 2, merged, false);
    benchmark::ClobberMemory();
  }
  count_bytes(state, 2 * kBlock);
}

const bool kRegistered = [] {
  for (const Isa isa : supported_isas()) {
    for (const char* codec : {"exp4", "exp_huff"})
      for (const Dtype dtype : {Dtype::bf16, Dtype::fp16, Dtype::fp32})
        for (const bool encode : {true, false})
          benchmark::RegisterBenchmark(
              (std::string(codec) + (encode ? "_encode/" : "_decode/") +
               kDtypeNames[static_cast<size_t>(dtype)] + "/" + isa_name(isa))
                  .c_str(),
              whole, codec, dtype, isa, encode);
    for (const char* name : {"split", "count", "lengths", "pack", "table", "unpack", "merge"})
      benchmark::RegisterBenchmark((std::string("exp_huff/") + name + "/" + isa_name(isa)).c_str(),
                                   part, name, isa);
  }
  return true;
}();

}  // namespace
}  // namespace blatam
