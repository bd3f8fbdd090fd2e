#include "cuda/staging.h"

namespace blatam::cuda {

int Staging::open(Runtime& runtime, Runtime::Stream stream, uint32_t buffers, uint64_t buffer_bytes,
                  std::unique_ptr<Staging>* staging) {
  auto made = std::unique_ptr<Staging>(new Staging(runtime, stream, buffer_bytes));
  for (uint32_t i = 0; i < buffers; ++i) {
    Buffer& buffer = made->ring_.emplace_back();
    if (const int code = runtime.allocate_pinned(buffer_bytes, &buffer.memory); code != kOk)
      return code;
    if (const int code = runtime.open_event(&buffer.event); code != kOk) return code;
  }
  *staging = std::move(made);
  return kOk;
}

Staging::~Staging() {
  for (const Buffer& buffer : ring_) {
    if (buffer.event != nullptr) runtime_.close_event(buffer.event);
    if (buffer.memory != nullptr) runtime_.release_pinned(buffer.memory);
  }
}

int Staging::next(uint8_t** buffer, uint32_t* index) {
  Buffer& next = ring_[at_];
  if (next.busy && runtime_.query(next.event) == kNotYet)
    waits_.fetch_add(1, std::memory_order_relaxed);
  if (const int code = await(at_); code != kOk) return code;
  *index = at_;
  *buffer = next.memory;
  at_ = (at_ + 1) % buffers();
  return kOk;
}

int Staging::used(uint32_t index) {
  const int code = runtime_.record(ring_[index].event, stream_);
  if (code == kOk) ring_[index].busy.store(true, std::memory_order_release);
  return code;
}

int Staging::await(uint32_t index) {
  if (!ring_[index].busy) return kOk;
  const int code = runtime_.synchronize(ring_[index].event);
  if (code == kOk) ring_[index].busy = false;
  return code;
}

uint32_t Staging::busy() const {
  uint32_t found = 0;
  for (const Buffer& buffer : ring_)
    if (buffer.busy.load(std::memory_order_acquire) && runtime_.query(buffer.event) == kNotYet)
      ++found;
  return found;
}

}  // namespace blatam::cuda
