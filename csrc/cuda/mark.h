// A Mark is a point in the work of a stream: whoever holds one can ask whether it has passed, wait
// for it, or let another stream wait. Safe from any thread. It must not outlive its runtime.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "cuda/runtime.h"

namespace blatam::cuda {

class Mark {
 public:
  // One that is to be set. Opening comes first, so that what was queued can be marked for certain.
  [[nodiscard]] static int open(Runtime& runtime, std::shared_ptr<Mark>* mark) {
    auto made = std::shared_ptr<Mark>(new Mark(runtime));
    const int code = runtime.open_event(&made->event_);
    if (code == kOk) *mark = std::move(made);
    return code;
  }
  // Sets it to the point that `stream` has come to when it has done all it was given. Required
  // once, before anything below.
  [[nodiscard]] int set(Runtime::Stream stream) { return runtime_.record(event_, stream); }
  Mark(const Mark&) = delete;
  Mark& operator=(const Mark&) = delete;
  ~Mark() {
    if (event_ != nullptr) runtime_.close_event(event_);
  }

  // kOk, kNotYet, or why the device cannot say.
  [[nodiscard]] int passed() {
    if (passed_.load(std::memory_order_acquire)) return kOk;
    return noted(runtime_.query(event_));
  }
  // Returns when it has passed.
  [[nodiscard]] int await() {
    if (passed_.load(std::memory_order_acquire)) return kOk;
    return noted(runtime_.synchronize(event_));
  }
  // Lets a stream wait for it.
  [[nodiscard]] int hold(Runtime::Stream stream) {
    if (passed_.load(std::memory_order_acquire)) return kOk;
    return runtime_.wait(stream, event_);
  }

 private:
  explicit Mark(Runtime& runtime) : runtime_(runtime) {}

  int noted(int code) {
    if (code == kOk) passed_.store(true, std::memory_order_release);
    return code;
  }

  Runtime& runtime_;
  Runtime::Event event_ = nullptr;
  std::atomic<bool> passed_ = false;  // acquire: what was done before it is then seen, too
};

using Marks = std::vector<std::shared_ptr<Mark>>;

// Forgets those that have passed.
inline void prune(Marks& marks) {
  size_t kept = 0;
  for (auto& mark : marks)
    if (mark->passed() != kOk) marks[kept++] = mark;
  marks.resize(kept);
}

}  // namespace blatam::cuda
