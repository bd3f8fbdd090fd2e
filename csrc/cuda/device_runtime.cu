// The runtime that is CUDA's.
#include "cuda/on_device.h"
#include "cuda/runtime.h"

namespace blatam::cuda {
namespace {

cudaStream_t stream_of(Runtime::Stream stream) { return static_cast<cudaStream_t>(stream); }
cudaEvent_t event_of(Runtime::Event event) { return static_cast<cudaEvent_t>(event); }

class DeviceRuntime final : public Runtime {
 public:
  explicit DeviceRuntime(int device) : device_(device) {}

  int device() const override { return device_; }

  int allocate(uint64_t bytes, uint8_t** memory) override {
    return here([&] { return cudaMalloc(reinterpret_cast<void**>(memory), bytes); });
  }
  void release(uint8_t* memory) override {
    here([&] { return cudaFree(memory); });
  }
  int allocate_pinned(uint64_t bytes, uint8_t** memory) override {
    return here([&] {
      return cudaHostAlloc(reinterpret_cast<void**>(memory), bytes, cudaHostAllocDefault);
    });
  }
  void release_pinned(uint8_t* memory) override {
    here([&] { return cudaFreeHost(memory); });
  }

  // Not blocking: the legacy default stream, which others use, would wait for it and it for them.
  int open_stream(Stream* stream) override {
    return here([&] {
      return cudaStreamCreateWithFlags(reinterpret_cast<cudaStream_t*>(stream),
                                       cudaStreamNonBlocking);
    });
  }
  void close_stream(Stream stream) override {
    here([&] {
      const cudaError_t done = cudaStreamSynchronize(stream_of(stream));
      const cudaError_t closed = cudaStreamDestroy(stream_of(stream));
      return done != cudaSuccess ? done : closed;
    });
  }
  int open_event(Event* event) override {
    return here([&] {
      return cudaEventCreateWithFlags(reinterpret_cast<cudaEvent_t*>(event),
                                      cudaEventDisableTiming);
    });
  }
  void close_event(Event event) override {
    here([&] { return cudaEventDestroy(event_of(event)); });
  }

  int copy(uint8_t* to, const uint8_t* from, uint64_t bytes, Stream stream) override {
    return here(
        [&] { return cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream_of(stream)); });
  }
  int run(const Job& job, bool store, Stream stream) override {
    return (store ? blatam_cuda_store : blatam_cuda_fetch)(&job, device_, stream);
  }

  int record(Event event, Stream stream) override {
    return here([&] { return cudaEventRecord(event_of(event), stream_of(stream)); });
  }
  int wait(Stream stream, Event event) override {
    return here([&] { return cudaStreamWaitEvent(stream_of(stream), event_of(event), 0); });
  }
  int query(Event event) override {
    const int code = here([&] { return cudaEventQuery(event_of(event)); });
    return code == kCudaError + cudaErrorNotReady ? kNotYet : code;
  }
  int synchronize(Event event) override {
    return here([&] { return cudaEventSynchronize(event_of(event)); });
  }

 private:
  template <class Call>
  int here(const Call& call) const {
    const OnDevice current(device_);
    if (current.error() != cudaSuccess) return code_of(current.error());
    return code_of(call());
  }

  const int device_;
};

}  // namespace

int open_device_runtime(int device, std::unique_ptr<Runtime>* runtime) {
  int count = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess)
    return code_of(error);
  if (device < 0 || device >= count) return code_of(cudaErrorInvalidDevice);
  *runtime = std::make_unique<DeviceRuntime>(device);
  return kOk;
}

}  // namespace blatam::cuda
