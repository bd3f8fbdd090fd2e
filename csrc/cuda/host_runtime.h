// A device that is the host: its memory is the host's, its streams are queues of work, its kernels
// are those of host_grid.cc. Two ways to work a queue off:
//
//   threads   each stream is a thread, which begins as soon as it may. What two streams touch
//             without an event between them is a race that ThreadSanitizer sees.
//   lazy      nothing is done before somebody has to wait for it, and then no more than the events
//             demand: the latest that CUDA would be allowed. Work whose order was forgotten then
//             meets memory that was reused, always and not once in a while.
//
// It serves caches that lie in host memory, and it is what the tests of this room run on, so it
// can also be told to fail.
#pragma once

#include <mutex>

#include "cuda/runtime.h"

namespace blatam::cuda {

class HostRuntime final : public Runtime {
 public:
  enum class Order { threads, lazy };

  explicit HostRuntime(Order order = Order::threads) : order_(order) {}

  // After so many more calls that return a Code, one of them, or `forever` all, answers `code`;
  // work that was accepted before is still done.
  void fail_after(uint64_t calls, int code, bool forever);

  int device() const override { return -1; }
  int allocate(uint64_t bytes, uint8_t** memory) override;
  void release(uint8_t* memory) override;
  int allocate_pinned(uint64_t bytes, uint8_t** memory) override;
  void release_pinned(uint8_t* memory) override;
  int open_stream(Stream* stream) override;
  void close_stream(Stream stream) override;
  int open_event(Event* event) override;
  void close_event(Event event) override;
  int copy(uint8_t* to, const uint8_t* from, uint64_t bytes, Stream stream) override;
  int run(const Job& job, bool store, Stream stream) override;
  int record(Event event, Stream stream) override;
  int wait(Stream stream, Event event) override;
  int query(Event event) override;
  int synchronize(Event event) override;

 private:
  int failure();

  const Order order_;
  std::recursive_mutex stepping_;  // of lazy streams, worked off by one thread at a time
  std::mutex failing_;             // guards what follows
  uint64_t calls_left_ = UINT64_MAX;
  int code_ = kOk;
  bool forever_ = false;
};

}  // namespace blatam::cuda
