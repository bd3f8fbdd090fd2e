// Dividing rows among threads, and the floating-point mode they run in. Threads live as long as the
// call; a process that cannot start one does that thread's share itself.
#pragma once

#include <algorithm>
#include <cstdint>
#include <exception>
#include <system_error>
#include <thread>
#include <vector>

#ifdef __SSE2__
#include <xmmintrin.h>
#endif

namespace blatam {

// Round to nearest, subnormals kept, no traps, until the end of the scope. A host program may have
// changed the mode (torch.set_flush_denormal does); codes must not depend on it.
class DefaultFloatMode {
 public:
#if defined(__SSE2__)
  DefaultFloatMode() noexcept : saved_(_mm_getcsr()) { _mm_setcsr(0x1f80); }
  ~DefaultFloatMode() { _mm_setcsr(saved_); }
#elif defined(__aarch64__)
  DefaultFloatMode() noexcept {
    __asm__ volatile("mrs %0, fpcr" : "=r"(saved_));
    __asm__ volatile("msr fpcr, xzr");
  }
  ~DefaultFloatMode() { __asm__ volatile("msr fpcr, %0" ::"r"(saved_)); }
#else
  DefaultFloatMode() noexcept = default;
  ~DefaultFloatMode() {}
#endif
  DefaultFloatMode(const DefaultFloatMode&) = delete;
  DefaultFloatMode& operator=(const DefaultFloatMode&) = delete;

 private:
#if defined(__SSE2__)
  unsigned saved_;
#elif defined(__aarch64__)
  uint64_t saved_;
#endif
};

// Calls work(share, begin, end) for ranges that cover [0, count) in the order of the shares, which
// are fewer than `threads` or as many, all at a time, this thread included. Requires threads >= 1.
// If `work` throws, so does this, once all are done.
template <class Work>
void in_shares(unsigned threads, uint64_t count, const Work& work) {
  const auto shares = std::min<uint64_t>(threads, std::max<uint64_t>(count, 1));
  std::vector<std::exception_ptr> failures(shares);
  const auto run = [&](uint64_t share) {
    const DefaultFloatMode mode;
    const auto from = [&](uint64_t i) { return count / shares * i + std::min(i, count % shares); };
    try {
      work(static_cast<unsigned>(share), from(share), from(share + 1));
    } catch (...) {
      failures[share] = std::current_exception();
    }
  };
  std::vector<std::thread> others;
  others.reserve(shares - 1);
  uint64_t next = 1;
  for (; next < shares; ++next) {
    try {
      others.emplace_back(run, next);
    } catch (const std::system_error&) {
      break;
    }
  }
  run(0);
  for (; next < shares; ++next) run(next);
  for (std::thread& other : others) other.join();
  for (const std::exception_ptr& failure : failures)
    if (failure) std::rethrow_exception(failure);
}

// The same for work that does not ask which share it is: work(begin, end).
template <class Work>
void in_parallel(unsigned threads, uint64_t count, const Work& work) {
  in_shares(threads, count, [&](unsigned, uint64_t begin, uint64_t end) { work(begin, end); });
}

}  // namespace blatam
