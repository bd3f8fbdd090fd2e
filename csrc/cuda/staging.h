// Staging is a ring of pinned buffers between memory that a device cannot reach and its copies. A
// buffer is handed out again when the event that was recorded behind its last copy is done, so as
// many copies are under way as there are buffers, and none sees what was meant for another. For one
// thread at a time; the ring belongs to one stream.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

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

 private:
  struct Buffer {
    uint8_t* memory = nullptr;
    Runtime::Event event = nullptr;
    bool busy = false;
  };

  Staging(Runtime& runtime, Runtime::Stream stream, uint64_t buffer_bytes)
      : runtime_(runtime), stream_(stream), buffer_bytes_(buffer_bytes) {}

  Runtime& runtime_;
  const Runtime::Stream stream_;
  const uint64_t buffer_bytes_;
  std::vector<Buffer> ring_;
  uint32_t at_ = 0;
};

}  // namespace blatam::cuda
