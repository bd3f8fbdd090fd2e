// Every kernel beside a copy on the device, in turns in one run: 64 MiB of bfloat16 keys or values
// of 32 tensors, blocks of 64 tokens in slots at random, pages of 16, 8 heads of 128. Speeds are of
// bytes read and written, as the copy's are; the target is 75 % of it, 50 % where a row is turned.
// Each kernel's payloads are first compared with those of the same code on the host, and what it
// fetches with what the host fetches.
//
// Then digests of token blocks, for few and for many sequences, beside one thread of the host that
// runs the same code over ids that it already has: a chain cannot be cut, so what a device gains is
// the number of sequences.
//
// --json prints all of it as one object; --check compares a smaller cache and few sequences and
// times nothing, for compute-sanitizer. Exits with 1 where bits differ, not where a target is
// missed.
#include <cuda_runtime.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "cuda/chains.h"
#include "cuda/paged.h"

namespace {

using namespace blatam::cuda;

constexpr uint32_t kTensors = 32;
constexpr uint32_t kTokens = 64;
constexpr uint32_t kHeads = 8;
constexpr uint32_t kHeadDim = 128;
constexpr uint32_t kPageTokens = 16;
constexpr uint32_t kBlocks = 16;
constexpr uint32_t kCheckedBlocks = 2;
constexpr int kTurns = 15;
constexpr uint64_t kBlockBytes = uint64_t{kTokens} * kHeads * kHeadDim * 2;  // of one tensor
constexpr uint64_t kCacheBytes = kTensors * kBlocks * kBlockBytes;

void check(cudaError_t error) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "CUDA: %s\n", cudaGetErrorString(error));
  std::exit(1);
}
void check(int code) {
  if (code == kOk) return;
  std::fprintf(stderr, "%s\n", blatam_cuda_text(code));
  std::exit(1);
}

template <class T>
class Device {
 public:
  explicit Device(size_t count) : count_(count) { check(cudaMalloc(&data_, bytes())); }
  explicit Device(const std::vector<T>& from) : Device(from.size()) {
    check(cudaMemcpy(data_, from.data(), bytes(), cudaMemcpyHostToDevice));
  }
  Device(const Device&) = delete;
  ~Device() { cudaFree(data_); }
  T* data() const { return data_; }
  size_t bytes() const { return count_ * sizeof(T); }
  std::vector<T> host() const {
    std::vector<T> values(count_);
    check(cudaMemcpy(values.data(), data_, bytes(), cudaMemcpyDeviceToHost));
    return values;
  }

 private:
  T* data_ = nullptr;
  size_t count_;
};

class Timer {
 public:
  Timer() {
    check(cudaEventCreate(&begin_));
    check(cudaEventCreate(&end_));
  }
  template <class Work>
  double seconds(cudaStream_t stream, const Work& work) {
    check(cudaEventRecord(begin_, stream));
    work();
    check(cudaEventRecord(end_, stream));
    check(cudaEventSynchronize(end_));
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, begin_, end_));
    return milliseconds / 1e3;
  }

 private:
  cudaEvent_t begin_;
  cudaEvent_t end_;
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

struct Named {
  Scheme scheme;
  const char* name;
  double target;
};
constexpr Named kSchemes[] = {
    {Scheme::raw, "raw", 0.75},
    {Scheme::token8, "int8", 0.75},
    {Scheme::token4, "int4", 0.75},
    {Scheme::channel8, "int8_kc keys", 0.75},
    {Scheme::channel4, "int4_kc keys", 0.75},
    {Scheme::rotated4, "int4_rot", 0.5},
    {Scheme::levels4, "tq4", 0.5},
    {Scheme::levels3, "tq3", 0.5},
    {Scheme::exp4, "exp4", 0.5},
};

Job job_for(Scheme scheme, uint32_t blocks) {
  Job job = {};
  job.scheme = scheme;
  job.element = Element::bf16;
  job.tokens = kTokens;
  job.kv_heads = kHeads;
  job.head_dim = job.run = kHeadDim;
  job.block_tokens = kPageTokens;
  job.head_bytes = 2 * kHeadDim;
  job.token_bytes = kHeads * job.head_bytes;
  job.block_bytes = kPageTokens * job.token_bytes;
  job.slot_limit = uint64_t{blocks} * kTokens;
  job.blocks = blocks;
  job.tensors = kTensors;
  job.payload_room = (blatam_paged_most_bytes(&job) + 15) / 16 * 16;
  job.block_stride = job.payload_room * kTensors;
  for (uint32_t t = 0; t < kTensors; ++t) job.tensor[t].payload = t * job.payload_room;
  return job;
}

void point(Job* job, uint8_t* cache, const int64_t* slots, uint8_t* payloads, uint64_t* bytes,
           uint32_t* faults) {
  for (uint32_t t = 0; t < kTensors; ++t)
    job->tensor[t].base = cache + t * job->blocks * kBlockBytes;
  job->slots = slots;
  job->payloads = payloads;
  job->bytes = bytes;
  job->faults = faults;
}

struct Speed {
  const char* name;
  double copy;  // bytes a second
  double store;
  double fetch;
  double target;  // of the copy's

  bool reached() const { return std::min(store, fetch) >= target * copy; }
};

struct Machine {
  cudaStream_t stream;
  uint32_t blocks;
  std::vector<uint8_t> cache;
  std::vector<int64_t> slots;
  Device<uint8_t> device_cache;
  Device<uint8_t> device_copy;
  Device<int64_t> device_slots;
};

std::vector<uint8_t> normal_values(uint32_t blocks, std::mt19937_64& random) {
  std::normal_distribution<float> normal;
  std::vector<uint8_t> cache(kTensors * blocks * kBlockBytes);
  for (size_t i = 0; i < cache.size(); i += 2) {
    const float value = normal(random);
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    cache[i] = static_cast<uint8_t>(bits >> 16);
    cache[i + 1] = static_cast<uint8_t>(bits >> 24);
  }
  return cache;
}

[[noreturn]] void differ(const char* name, const char* what) {
  std::fprintf(stderr, "%s: %s\n", name, what);
  std::exit(1);
}

// Compares, and times so many turns.
Speed measure(Machine& machine, const Named& named, int turns) {
  const uint32_t blocks = machine.blocks;
  Job job = job_for(named.scheme, blocks);
  Job host_job = job;
  const size_t payload_bytes = job.block_stride * blocks;
  std::vector<uint8_t> payloads(payload_bytes + 16);
  uint8_t* const aligned =
      payloads.data() + (16 - reinterpret_cast<uintptr_t>(payloads.data()) % 16) % 16;
  std::vector<uint64_t> bytes(blocks * kTensors);
  std::vector<uint32_t> faults(blocks * kTensors);
  const Device<uint8_t> device_payloads(payload_bytes);
  const Device<uint64_t> device_bytes(bytes.size());
  const Device<uint32_t> device_faults(faults.size());
  point(&host_job, machine.cache.data(), machine.slots.data(), aligned, bytes.data(),
        faults.data());
  point(&job, machine.device_cache.data(), machine.device_slots.data(), device_payloads.data(),
        device_bytes.data(), device_faults.data());

  check(cudaMemset(device_payloads.data(), 0, device_payloads.bytes()));
  check(blatam_paged_store(&host_job));
  check(blatam_cuda_store(&job, 0, machine.stream));
  check(cudaStreamSynchronize(machine.stream));
  if (!std::equal(aligned, aligned + payload_bytes, device_payloads.host().begin()) ||
      device_bytes.host() != bytes || device_faults.host() != faults)
    differ(named.name, "the device's payloads are not the host's");
  const std::vector<uint8_t> before = machine.cache;
  check(blatam_paged_fetch(&host_job));
  check(blatam_cuda_fetch(&job, 0, machine.stream));
  check(cudaStreamSynchronize(machine.stream));
  if (machine.device_cache.host() != machine.cache)
    differ(named.name, "the device fetches something else than the host");
  machine.cache = before;
  check(cudaMemcpy(machine.device_cache.data(), machine.cache.data(), machine.cache.size(),
                   cudaMemcpyHostToDevice));

  if (turns == 0) return {named.name, 0, 0, 0, named.target};
  Timer timer;
  std::vector<double> copy;
  std::vector<double> store;
  std::vector<double> fetch;
  for (int turn = 0; turn < turns; ++turn) {
    copy.push_back(timer.seconds(machine.stream, [&] {
      check(cudaMemcpyAsync(machine.device_copy.data(), machine.device_cache.data(),
                            machine.cache.size(), cudaMemcpyDeviceToDevice, machine.stream));
    }));
    store.push_back(
        timer.seconds(machine.stream, [&] { check(blatam_cuda_store(&job, 0, machine.stream)); }));
    fetch.push_back(
        timer.seconds(machine.stream, [&] { check(blatam_cuda_fetch(&job, 0, machine.stream)); }));
  }
  const double moved = static_cast<double>(machine.cache.size()) +
                       static_cast<double>(blatam_paged_fixed_bytes(&job)) * blocks * kTensors;
  return {named.name, 2.0 * static_cast<double>(machine.cache.size()) / median(copy),
          moved / median(store), moved / median(fetch), named.target};
}

// ---- digests ------------------------------------------------------------------------------------

constexpr uint32_t kChainTokens = 4096;  // of a sequence
constexpr uint32_t kChainBlock = 16;
constexpr uint32_t kSequences[] = {1, 32, 1024, 16384};

struct ChainSpeed {
  uint32_t sequences;
  double device;  // blocks a second
  double host;
};

ChainSpeed measure_chains(cudaStream_t stream, uint32_t sequences, std::mt19937_64& random,
                          int turns) {
  constexpr uint32_t kRoom = kChainTokens / kChainBlock;
  std::vector<int32_t> ids(size_t{sequences} * kChainTokens);
  for (int32_t& id : ids) id = static_cast<int32_t>(random() % 128000);
  std::vector<uint8_t> digests(size_t{sequences} * kRoom * 32);
  std::vector<int64_t> counts(sequences);
  const Device<int32_t> device_ids(ids);
  const Device<uint8_t> device_digests(digests.size());
  const Device<int64_t> device_counts(counts.size());
  ChainJob job = {};
  for (uint64_t& word : job.state) word = random();
  job.counter = 128;
  job.id_type = Integer::int32;
  job.bound_type = Integer::int64;
  job.ids = ids.data();
  job.ids_count = ids.size();
  job.row_ids = job.row_stride = kChainTokens;
  job.sequences = sequences;
  job.block_tokens = kChainBlock;
  job.digests = digests.data();
  job.room = kRoom;
  job.counts = counts.data();
  ChainJob there = job;
  there.ids = device_ids.data();
  there.digests = device_digests.data();
  there.counts = device_counts.data();
  const auto begin = std::chrono::steady_clock::now();
  check(blatam_chains_run(&job));
  const std::chrono::duration<double> host = std::chrono::steady_clock::now() - begin;
  check(blatam_cuda_chains_run(&there, 0, stream));
  check(cudaStreamSynchronize(stream));
  if (device_digests.host() != digests || device_counts.host() != counts)
    differ("digests", "the device's are not the host's");
  if (turns == 0) return {sequences, 0, 0};
  Timer timer;
  std::vector<double> device;
  for (int turn = 0; turn < turns; ++turn)
    device.push_back(
        timer.seconds(stream, [&] { check(blatam_cuda_chains_run(&there, 0, stream)); }));
  const double blocks = static_cast<double>(sequences) * kRoom;
  return {sequences, blocks / median(device), blocks / host.count()};
}

// ---- what is printed ----------------------------------------------------------------------------

void print_table(const char* device, const std::vector<Speed>& speeds,
                 const std::vector<ChainSpeed>& chains) {
  std::printf("%s, %.0f MiB of bfloat16, median of %d\n", device, kCacheBytes / 1048576.0, kTurns);
  std::printf("%-14s %10s %10s %8s %10s %8s %7s\n", "", "copy GB/s", "store GB/s", "of copy",
              "fetch GB/s", "of copy", "target");
  for (const Speed& s : speeds)
    std::printf("%-14s %10.0f %10.0f %8.2f %10.0f %8.2f %7.2f\n", s.name, s.copy / 1e9,
                s.store / 1e9, s.store / s.copy, s.fetch / 1e9, s.fetch / s.copy, s.target);
  const bool reached =
      std::all_of(speeds.begin(), speeds.end(), [](const Speed& s) { return s.reached(); });
  std::printf(reached ? "every target is reached\n" : "not every target is reached\n");
  std::printf("\ndigests of blocks of %u tokens, sequences of %u\n%-14s %14s %14s %8s\n",
              kChainBlock, kChainTokens, "sequences", "blocks/s", "host thread", "ratio");
  for (const ChainSpeed& c : chains)
    std::printf("%-14u %14.0f %14.0f %8.2f\n", c.sequences, c.device, c.host, c.device / c.host);
}

void print_json(const char* device, const std::vector<Speed>& speeds,
                const std::vector<ChainSpeed>& chains) {
  std::printf("{\"device\": \"%s\", \"bytes\": %llu, \"turns\": %d, \"kernels\": [", device,
              static_cast<unsigned long long>(kCacheBytes), kTurns);
  const char* comma = "";
  for (const Speed& s : speeds) {
    std::printf(
        "%s{\"codec\": \"%s\", \"copy\": %.0f, \"store\": %.0f, \"store_ratio\": %.3f, "
        "\"fetch\": %.0f, \"fetch_ratio\": %.3f, \"target\": %.2f, \"reached\": %s}",
        comma, s.name, s.copy, s.store, s.store / s.copy, s.fetch, s.fetch / s.copy, s.target,
        s.reached() ? "true" : "false");
    comma = ", ";
  }
  std::printf("], \"digests\": [");
  comma = "";
  for (const ChainSpeed& c : chains) {
    std::printf(
        "%s{\"sequences\": %u, \"block_tokens\": %u, \"tokens\": %u, "
        "\"blocks_per_second\": %.0f, \"host_blocks_per_second\": %.0f}",
        comma, c.sequences, kChainBlock, kChainTokens, c.device, c.host);
    comma = ", ";
  }
  std::printf("]}\n");
}

}  // namespace

int main(int count, char** arguments) {
  const bool json = count == 2 && std::strcmp(arguments[1], "--json") == 0;
  const bool check_only = count == 2 && std::strcmp(arguments[1], "--check") == 0;
  if (count > 1 && !json && !check_only) {
    std::fprintf(stderr, "usage: cuda_bench [--json | --check]\n");
    return 2;
  }
  int devices = 0;
  if (blatam_cuda_device_count(&devices) != kOk || devices == 0) {
    std::fprintf(stderr, "there is no GPU to measure on\n");
    return 1;
  }
  cudaDeviceProp device;
  check(cudaGetDeviceProperties(&device, 0));
  cudaStream_t stream;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));

  std::mt19937_64 random(1);
  const uint32_t blocks = check_only ? kCheckedBlocks : kBlocks;
  const int turns = check_only ? 0 : kTurns;
  std::vector<uint8_t> cache = normal_values(blocks, random);
  std::vector<int64_t> slots(size_t{blocks} * kTokens);
  std::iota(slots.begin(), slots.end(), 0);
  std::shuffle(slots.begin(), slots.end(), random);
  Machine machine = {stream,
                     blocks,
                     cache,
                     slots,
                     Device<uint8_t>(cache),
                     Device<uint8_t>(cache.size()),
                     Device<int64_t>(slots)};
  std::vector<Speed> speeds;
  for (const Named& named : kSchemes) speeds.push_back(measure(machine, named, turns));
  std::vector<ChainSpeed> chains;
  for (const uint32_t sequences : kSequences)
    if (!check_only || sequences <= 32)
      chains.push_back(measure_chains(stream, sequences, random, turns));
  if (check_only) {
    std::printf("the device's bits are the host's\n");
    return 0;
  }
  (json ? print_json : print_table)(device.name, speeds, chains);
  return 0;
}
