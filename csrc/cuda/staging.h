// Staging is a ring of pinned buffers between memory that a device cannot reach and its copies. A
// buffer is handed out again when the event that was recorded behind its last copy is done, so as
// many copies are under way as there are buffers, and none sees what was meant for another. For one
// thread at a time, but for what is asked of its state; the ring belongs to one stream.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>

#include "cuda/runtime.h"

namespace blatam::cuda {

class Staging {
 public:
  [[nodiscard]] static int open(Runtime& runtime, Runtime::Stream stream, uint32_t buffers,
                                uint64_t buffer_bytes, std::unique_ptr<Staging>* staging);
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;
  // Requires that the stream is closed, or has done all it was given.
  ~Staging();

  [[nodiscard]] uint64_t buffer_bytes() const noexcept { return buffer_bytes_; }
  [[nodiscard]] uint32_t buffers() const noexcept { return static_cast<uint32_t>(ring_.size()); }

  // The next buffer, once its last copy is done; `index` names it.
  [[nodiscard]] int next(uint8_t** buffer, uint32_t* index);
  // The copies that use it have been given to the stream.
  [[nodiscard]] int used(uint32_t index);
  // Returns when they are done.
  [[nodiscard]] int await(uint32_t index);

  // From any thread: how many buffers' copies are under way now, and how often `next` had to wait.
  [[nodiscard]] uint32_t busy() const;
  [[nodiscard]] uint64_t waits() const noexcept { return waits_.load(std::memory_order_relaxed); }

 private:
  struct Buffer {
    uint8_t* memory = nullptr;
    Runtime::Event event = nullptr;
    std::atomic<bool> busy = false;  // release, acquire: the event was recorded before
  };

  Staging(Runtime& runtime, Runtime::Stream stream, uint64_t buffer_bytes)
      : runtime_(runtime), stream_(stream), buffer_bytes_(buffer_bytes) {}

  Runtime& runtime_;
  const Runtime::Stream stream_;
  const uint64_t buffer_bytes_;
  std::deque<Buffer> ring_;  // which never moves its buffers
  uint32_t at_ = 0;
  std::atomic<uint64_t> waits_ = 0;  // relaxed: a figure, nothing depends on it
};

}  // namespace blatam::cuda
