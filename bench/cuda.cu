// Every kernel beside a copy on the device, in turns in one run: 64 MiB of bfloat16 keys or values
// of 32 tensors, blocks of 64 tokens in slots at random, pages of 16, 8 heads of 128. Speeds are of
// bytes read and written, as the copy's are; the target is 75 % of it, 50 % where a row is turned.
// Each kernel's payloads are first compared with those of the same code on the host, and what it
// fetches with what the host fetches.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <random>
#include <vector>

#include "cuda/paged.h"

namespace {

using namespace blatam::cuda;

constexpr uint32_t kTensors = 32;
constexpr uint32_t kTokens = 64;
constexpr uint32_t kHeads = 8;
constexpr uint32_t kHeadDim = 128;
constexpr uint32_t kPageTokens = 16;
constexpr uint32_t kBlocks = 16;
constexpr int kTurns = 15;
constexpr uint64_t kTensorBytes = uint64_t{kBlocks} * kTokens * kHeads * kHeadDim * 2;

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

Job job_for(Scheme scheme) {
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
  job.slot_limit = uint64_t{kBlocks} * kTokens;
  job.blocks = kBlocks;
  job.tensors = kTensors;
  job.payload_room = (blatam_paged_most_bytes(&job) + 15) / 16 * 16;
  job.block_stride = job.payload_room * kTensors;
  for (uint32_t t = 0; t < kTensors; ++t) job.tensor[t].payload = t * job.payload_room;
  return job;
}

void point(Job* job, uint8_t* cache, const int64_t* slots, uint8_t* payloads, uint64_t* bytes,
           uint32_t* faults) {
  for (uint32_t t = 0; t < kTensors; ++t) job->tensor[t].base = cache + t * kTensorBytes;
  job->slots = slots;
  job->payloads = payloads;
  job->bytes = bytes;
  job->faults = faults;
}

}  // namespace

int main() {
  int count = 0;
  if (blatam_cuda_device_count(&count) != kOk || count == 0) {
    std::fprintf(stderr, "there is no GPU to measure on\n");
    return 1;
  }
  cudaDeviceProp device;
  check(cudaGetDeviceProperties(&device, 0));
  cudaStream_t stream;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));

  std::mt19937_64 random(1);
  std::normal_distribution<float> normal;
  std::vector<uint8_t> cache(kTensors * kTensorBytes);
  for (size_t i = 0; i < cache.size(); i += 2) {
    union {
      float value;
      uint32_t bits;
    } x = {normal(random)};
    cache[i] = static_cast<uint8_t>(x.bits >> 16);
    cache[i + 1] = static_cast<uint8_t>(x.bits >> 24);
  }
  std::vector<int64_t> slots(size_t{kBlocks} * kTokens);
  std::iota(slots.begin(), slots.end(), 0);
  std::shuffle(slots.begin(), slots.end(), random);
  const Device<uint8_t> device_cache(cache);
  const Device<uint8_t> device_copy(cache.size());
  const Device<int64_t> device_slots(slots);

  std::printf("%s, %.0f MiB of bfloat16, median of %d\n", device.name, cache.size() / 1048576.0,
              kTurns);
  std::printf("%-14s %10s %10s %8s %10s %8s %7s\n", "", "copy GB/s", "store GB/s", "of copy",
              "fetch GB/s", "of copy", "target");
  bool reached = true;
  for (const Named& named : kSchemes) {
    Job job = job_for(named.scheme);
    Job host_job = job;
    const size_t payload_bytes = job.block_stride * kBlocks;
    std::vector<uint8_t> payloads(payload_bytes + 16);
    uint8_t* const aligned =
        payloads.data() + (16 - reinterpret_cast<uintptr_t>(payloads.data()) % 16) % 16;
    std::vector<uint64_t> bytes(kBlocks * kTensors);
    std::vector<uint32_t> faults(kBlocks * kTensors);
    const Device<uint8_t> device_payloads(payload_bytes);
    const Device<uint64_t> device_bytes(bytes.size());
    const Device<uint32_t> device_faults(faults.size());
    point(&host_job, cache.data(), slots.data(), aligned, bytes.data(), faults.data());
    point(&job, device_cache.data(), device_slots.data(), device_payloads.data(),
          device_bytes.data(), device_faults.data());

    check(cudaMemset(device_payloads.data(), 0, device_payloads.bytes()));
    check(blatam_paged_store(&host_job));
    check(blatam_cuda_store(&job, 0, stream));
    check(cudaStreamSynchronize(stream));
    if (!std::equal(aligned, aligned + payload_bytes, device_payloads.host().begin()) ||
        device_bytes.host() != bytes || device_faults.host() != faults) {
      std::fprintf(stderr, "%s: the device's payloads are not the host's\n", named.name);
      return 1;
    }
    const std::vector<uint8_t> before = cache;
    check(blatam_paged_fetch(&host_job));
    check(blatam_cuda_fetch(&job, 0, stream));
    check(cudaStreamSynchronize(stream));
    if (device_cache.host() != cache) {
      std::fprintf(stderr, "%s: the device fetches something else than the host\n", named.name);
      return 1;
    }
    cache = before;
    check(cudaMemcpy(device_cache.data(), cache.data(), cache.size(), cudaMemcpyHostToDevice));

    Timer timer;
    std::vector<double> copy;
    std::vector<double> store;
    std::vector<double> fetch;
    for (int turn = 0; turn < kTurns; ++turn) {
      copy.push_back(timer.seconds(stream, [&] {
        check(cudaMemcpyAsync(device_copy.data(), device_cache.data(), cache.size(),
                              cudaMemcpyDeviceToDevice, stream));
      }));
      store.push_back(timer.seconds(stream, [&] { check(blatam_cuda_store(&job, 0, stream)); }));
      fetch.push_back(timer.seconds(stream, [&] { check(blatam_cuda_fetch(&job, 0, stream)); }));
    }
    const double moved = static_cast<double>(cache.size()) +
                         static_cast<double>(blatam_paged_fixed_bytes(&job)) * kBlocks * kTensors;
    const double copy_speed = 2.0 * static_cast<double>(cache.size()) / median(copy);
    const double store_speed = moved / median(store);
    const double fetch_speed = moved / median(fetch);
    reached = reached && std::min(store_speed, fetch_speed) >= named.target * copy_speed;
    std::printf("%-14s %10.0f %10.0f %8.2f %10.0f %8.2f %7.2f\n", named.name, copy_speed / 1e9,
                store_speed / 1e9, store_speed / copy_speed, fetch_speed / 1e9,
                fetch_speed / copy_speed, named.target);
  }
  std::printf(reached ? "every target is reached\n" : "not every target is reached\n");
  return 0;
}
