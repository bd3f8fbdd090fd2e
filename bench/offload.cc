// What quantising on the device is worth on the bus: keys and values that leave an engine's cache
// for host memory and come back, beside a plain copy of the same between device and pinned memory,
// in turns in one run. Speeds are of the cache's own bytes, so what is compressed goes faster than
// the bus. The target is 3 times the plain copy for int4. The way down ends in memory that is not
// pinned, and the way up begins there, as for a cache's tier.
//
// Before it is timed, what comes down is compared with what the host encodes, and what comes back
// with what the host decodes. `--host` does all of it on the host as a device: the same program,
// and figures that mean nothing.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "cuda/bus.h"
#include "cuda/host_runtime.h"
#include "cuda/paged.h"

namespace {

using namespace blatam::cuda;
using Bytes = std::vector<uint8_t>;

constexpr uint32_t kTensors = 32;
constexpr uint32_t kTokens = 64;
constexpr uint32_t kHeads = 8;
constexpr uint32_t kDim = 128;
constexpr uint64_t kTokenBytes = 2 * kHeads * kDim;
constexpr int kTurns = 9;

void check(int code) {
  if (code == kOk) return;
  std::fprintf(stderr, "%s\n", blatam_cuda_text(code));
  std::exit(1);
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

template <class Work>
double seconds(const Work& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// A cache of `blocks` blocks for each of 32 tensors, one after the other, and its payloads.
struct Bench {
  std::shared_ptr<Bus> bus;
  uint32_t blocks;
  uint64_t tensor_bytes;
  Runtime::Stream stream = nullptr;
  uint8_t* cache = nullptr;                            // the device's
  uint8_t* pinned = nullptr;                           // as large as the cache
  std::vector<std::shared_ptr<DevicePiece>> payloads;  // of each block
  std::shared_ptr<DevicePiece> control;
  Job job = {};

  [[nodiscard]] uint64_t cache_bytes() const { return tensor_bytes * kTensors; }
  [[nodiscard]] uint64_t payload_bytes() const { return job.payload_room * kTensors; }

  void copy(uint8_t* to, const uint8_t* from, uint64_t bytes) const {
    std::shared_ptr<Mark> done;
    check(Mark::open(bus->runtime(), &done));
    check(bus->runtime().copy(to, from, bytes, stream));
    check(done->set(stream));
    check(done->await());
  }
  // One block's job; slots, sizes and faults of all blocks lie in `control`.
  [[nodiscard]] Job of_block(uint32_t block) const {
    Job one = job;
    one.payloads = payloads[block]->data();
    one.slots = reinterpret_cast<const int64_t*>(control->data()) + uint64_t{block} * kTokens;
    uint8_t* const report = control->data() + 8 * uint64_t{blocks} * kTokens;
    one.bytes = reinterpret_cast<uint64_t*>(report) + uint64_t{block} * kTensors;
    one.faults = reinterpret_cast<uint32_t*>(report + 8 * uint64_t{blocks} * kTensors) +
                 uint64_t{block} * kTensors;
    return one;
  }
  void run(uint32_t block, bool store) const {
    std::shared_ptr<Mark> done;
    check(bus->run(of_block(block), store, {payloads[block], control}, &done));
  }
  // While one block comes down the next is encoded.
  void down(std::vector<Bytes>& to) const {
    run(0, true);
    for (uint32_t block = 0; block < blocks; ++block) {
      if (block + 1 < blocks) run(block + 1, true);
      check(bus->down(payloads[block], 0, to[block]));
    }
  }
  // While one block is decoded the next comes up.
  void up(const std::vector<Bytes>& from) const {
    std::shared_ptr<Mark> done;
    for (uint32_t block = 0; block < blocks; ++block) {
      const Bus::Part part = {from[block], payloads[block], 0};
      check(bus->up({&part, 1}, &done));
      check(bus->run(of_block(block), false, {payloads[block], control}, &done));
    }
    check(done->await());
  }
};

Bench opened(Scheme scheme, bool on_host, uint32_t blocks) {
  Bench bench;
  bench.blocks = blocks;
  bench.tensor_bytes = uint64_t{blocks} * kTokens * kTokenBytes;
  Job& job = bench.job;
  job.scheme = scheme;
  job.element = Element::bf16;
  job.tokens = job.block_tokens = kTokens;
  job.kv_heads = kHeads;
  job.head_dim = job.run = kDim;
  job.head_bytes = 2 * kDim;
  job.token_bytes = kTokenBytes;
  job.block_bytes = kTokens * kTokenBytes;
  job.slot_limit = uint64_t{blocks} * kTokens;
  job.blocks = 1;
  job.tensors = kTensors;
  job.payload_room = (blatam_paged_most_bytes(&job) + 15) / 16 * 16;
  job.block_stride = bench.payload_bytes();
  const uint64_t control_bytes = uint64_t{blocks} * (8 * kTokens + 12 * kTensors);
  const BusSizes sizes = {blocks * Pool::rounded(bench.payload_bytes()) +
                          Pool::rounded(control_bytes)};
  std::unique_ptr<Runtime> runtime = std::make_unique<HostRuntime>();
  if (!on_host) check(open_device_runtime(0, &runtime));
  check(Bus::open(std::move(runtime), sizes, &bench.bus));
  check(bench.bus->runtime().open_stream(&bench.stream));
  check(bench.bus->runtime().allocate(bench.cache_bytes(), &bench.cache));
  check(bench.bus->runtime().allocate_pinned(bench.cache_bytes(), &bench.pinned));
  for (uint32_t block = 0; block < blocks; ++block)
    check(bench.bus->take(bench.payload_bytes(), true, &bench.payloads.emplace_back()));
  check(bench.bus->take(control_bytes, true, &bench.control));
  for (uint32_t t = 0; t < kTensors; ++t)
    job.tensor[t] = {bench.cache + t * bench.tensor_bytes, t * job.payload_room};
  return bench;
}

struct Speeds {
  double copy_down, down, copy_up, up;
};

Speeds measure(const Bench& bench, const Bytes& values) {
  std::vector<int64_t> slots(uint64_t{bench.blocks} * kTokens);
  for (size_t i = 0; i < slots.size(); ++i) slots[i] = static_cast<int64_t>(slots.size() - 1 - i);
  Bytes words(8 * slots.size());
  memcpy(words.data(), slots.data(), words.size());
  std::shared_ptr<Mark> done;
  const Bus::Part part = {words, bench.control, 0};
  check(bench.bus->up({&part, 1}, &done));
  check(done->await());
  memcpy(bench.pinned, values.data(), values.size());
  bench.copy(bench.cache, bench.pinned, values.size());

  // The host's own, on the same slots.
  std::vector<Bytes> found(bench.blocks, Bytes(bench.payload_bytes()));
  bench.down(found);
  Bytes host_values = values;
  for (uint32_t block = 0; block < bench.blocks; ++block) {
    Bytes expected(bench.payload_bytes() + 16);
    std::vector<uint64_t> bytes(kTensors);
    std::vector<uint32_t> faults(kTensors);
    Job job = bench.job;
    job.payloads = expected.data() + (16 - reinterpret_cast<uintptr_t>(expected.data()) % 16) % 16;
    job.slots = slots.data() + uint64_t{block} * kTokens;
    job.bytes = bytes.data();
    job.faults = faults.data();
    for (uint32_t t = 0; t < kTensors; ++t)
      job.tensor[t].base = host_values.data() + t * bench.tensor_bytes;
    check(blatam_paged_store(&job));
    for (uint32_t t = 0; t < kTensors; ++t) {
      const uint64_t at = t * job.payload_room;
      if (memcmp(job.payloads + at, found[block].data() + at, bytes[t]) != 0) {
        std::fprintf(stderr, "what came down is not what the host encodes\n");
        std::exit(1);
      }
    }
    check(blatam_paged_fetch(&job));
  }
  bench.up(found);
  bench.copy(bench.pinned, bench.cache, values.size());
  if (memcmp(bench.pinned, host_values.data(), values.size()) != 0) {
    std::fprintf(stderr, "what came back is not what the host decodes\n");
    std::exit(1);
  }

  std::vector<double> times[4];
  for (int turn = 0; turn < kTurns; ++turn) {
    times[0].push_back(
        seconds([&] { bench.copy(bench.pinned, bench.cache, bench.cache_bytes()); }));
    times[1].push_back(seconds([&] { bench.down(found); }));
    times[2].push_back(
        seconds([&] { bench.copy(bench.cache, bench.pinned, bench.cache_bytes()); }));
    times[3].push_back(seconds([&] { bench.up(found); }));
  }
  const auto speed = [&](int which) {
    return static_cast<double>(bench.cache_bytes()) / median(times[which]) / 1e9;
  };
  return {speed(0), speed(1), speed(2), speed(3)};
}

}  // namespace

int main(int count, char** arguments) {
  const bool on_host = count > 1 && std::strcmp(arguments[1], "--host") == 0;
  int devices = 0;
  if (!on_host && (blatam_cuda_device_count(&devices) != kOk || devices == 0)) {
    std::fprintf(stderr, "there is no GPU to measure on\n");
    return 1;
  }
  const uint32_t blocks = on_host ? 2 : 64;  // 256 MiB of keys and values
  std::mt19937_64 random(1);
  std::normal_distribution<float> normal;
  Bytes values(uint64_t{blocks} * kTokens * kTokenBytes * kTensors);
  for (size_t i = 0; i < values.size(); i += 2) {
    const float value = normal(random);
    memcpy(values.data() + i, reinterpret_cast<const uint8_t*>(&value) + 2, 2);
  }
  std::printf("%zu MiB of bfloat16, GB/s of these, median of %d%s\n", values.size() >> 20, kTurns,
              on_host ? "; on the host as a device: the figures mean nothing" : "");
  std::printf("%-6s %10s %8s %7s %10s %8s %7s %7s\n", "", "copy down", "down", "times", "copy up",
              "up", "times", "target");
  struct Named {
    Scheme scheme;
    const char* name;
    double target;
  };
  bool reached = true;
  for (const Named& named : {Named{Scheme::token4, "int4", 3}, Named{Scheme::token8, "int8", 1.6},
                             Named{Scheme::raw, "raw", 0.9}}) {
    const Bench bench = opened(named.scheme, on_host, blocks);
    const Speeds speeds = measure(bench, values);
    const double down = speeds.down / speeds.copy_down;
    const double up = speeds.up / speeds.copy_up;
    reached = reached && std::min(down, up) >= named.target;
    std::printf("%-6s %10.1f %8.1f %7.2f %10.1f %8.1f %7.2f %7.1f\n", named.name, speeds.copy_down,
                speeds.down, down, speeds.copy_up, speeds.up, up, named.target);
    bench.bus->runtime().close_stream(bench.stream);
    bench.bus->runtime().release(bench.cache);
    bench.bus->runtime().release_pinned(bench.pinned);
  }
  std::printf(reached ? "every target is reached\n" : "not every target is reached\n");
  return 0;
}
