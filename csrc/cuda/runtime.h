// What this room asks of a device beside its kernels: memory, streams, events, copies. Two answer:
// CUDA (device_runtime.cu) and the host (host_runtime.h), whose streams are threads, so that all
// that is built on this runs under sanitizers where there is no GPU.
//
// As in CUDA, work given to a stream is done in its order, later than the call, and streams know of
// one another by events alone: `wait` holds a stream back until what `record` saw is done. The
// stream null is the caller's: CUDA's default stream, or on the host the calling thread itself.
//
// Calls are safe from any thread and return a Code (paged.h). What one of them opened is closed by
// its owner, once no call uses it any more.
#pragma once

#include <stdint.h>

#include <memory>

#include "cuda/paged.h"

namespace blatam::cuda {

class Runtime {
 public:
  using Stream = void*;
  using Event = void*;

  Runtime() = default;
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;
  virtual ~Runtime() = default;

  // The device's number; -1 for the host.
  virtual int device() const = 0;

  // Memory of the device, and memory of the host that the device copies to and from by itself. Both
  // begin at multiples of 256.
  [[nodiscard]] virtual int allocate(uint64_t bytes, uint8_t** memory) = 0;
  virtual void release(uint8_t* memory) = 0;
  [[nodiscard]] virtual int allocate_pinned(uint64_t bytes, uint8_t** memory) = 0;
  virtual void release_pinned(uint8_t* memory) = 0;

  [[nodiscard]] virtual int open_stream(Stream* stream) = 0;
  // Waits for what was given to it.
  virtual void close_stream(Stream stream) = 0;
  [[nodiscard]] virtual int open_event(Event* event) = 0;
  virtual void close_event(Event event) = 0;

  // Between memory of the device and pinned memory, in either direction.
  [[nodiscard]] virtual int copy(uint8_t* to, const uint8_t* from, uint64_t bytes,
                                 Stream stream) = 0;
  [[nodiscard]] virtual int run(const Job& job, bool store, Stream stream) = 0;

  [[nodiscard]] virtual int record(Event event, Stream stream) = 0;
  // Requires that the event was recorded, as do the next two.
  [[nodiscard]] virtual int wait(Stream stream, Event event) = 0;
  // kOk: done. kNotYet: not done. Else the device failed.
  [[nodiscard]] virtual int query(Event event) = 0;
  // Returns when it is done.
  [[nodiscard]] virtual int synchronize(Event event) = 0;
};

// CUDA's, in the library that nvcc compiles; its error for an invalid device if there is no such
// one.
[[nodiscard]] int open_device_runtime(int device, std::unique_ptr<Runtime>* runtime);

}  // namespace blatam::cuda
