// Threads on one Cache, for ThreadSanitizer and as a check of what must hold under any order: a
// value always belongs to its key, the bound is never exceeded, nothing leaks.
#include <gtest/gtest.h>

#include <atomic>
#include <random>
#include <thread>
#include <vector>

#include "core/cache.h"

namespace blatam {
namespace {

struct Shared {
  uint64_t number;
  std::atomic<int> references{1};
};
std::atomic<int> live{0};

const ValueOps kShared = {[](void* handle) noexcept {
                            static_cast<Shared*>(handle)->references.fetch_add(
                                1, std::memory_order_relaxed);
                          },
                          [](void* handle) noexcept {
                            auto* shared = static_cast<Shared*>(handle);
                            if (shared->references.fetch_sub(1, std::memory_order_acq_rel) == 1) {
                              delete shared;
                              live.fetch_sub(1, std::memory_order_relaxed);
                            }
                          }};

Digest key(uint64_t i) {
  return DigestKey().hash({reinterpret_cast<const uint8_t*>(&i), sizeof i});
}

class RaceTest : public testing::TestWithParam<std::string_view> {};

TEST_P(RaceTest, ThreadsNeverSeeAnotherKeysValue) {
  constexpr int kThreads = 4;
  constexpr int kSteps = 20000;
  constexpr uint64_t kKeys = 256;
  {
    Cache cache({.limits = {.entries = 64}, .policy = GetParam(), .stripes = 4});
    std::vector<Digest> keys;
    for (uint64_t i = 0; i < kKeys; ++i) keys.push_back(key(i));
    std::atomic<int> wrong{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([&, t] {
        std::mt19937_64 random(static_cast<uint64_t>(t));
        for (int step = 0; step < kSteps; ++step) {
          const uint64_t i = random() % kKeys;
          const uint64_t now = static_cast<uint64_t>(step);
          switch (random() % 10) {
            case 0:
            case 1:
            case 2: {
              live.fetch_add(1, std::memory_order_relaxed);
              Value value(new Shared{i}, &kShared);
              (void)cache.put(keys[i], value, 1, random() % 4 ? 0 : now + 50, now);
              break;
            }
            case 3:
              cache.remove(keys[i]);
              break;
            case 4:
              if (cache.pin(keys[i], now)) cache.unpin(keys[i]);
              break;
            case 5:
              if (step % 512 == 0) cache.clear();
              if (cache.stats().entries > 64) ++wrong;
              break;
            default: {
              const Value value = cache.get(keys[i], now);
              if (value && static_cast<Shared*>(value.handle())->number != i) ++wrong;
            }
          }
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(wrong, 0);
  }
  EXPECT_EQ(live, 0);
}

INSTANTIATE_TEST_SUITE_P(All, RaceTest, testing::ValuesIn(policy_names()),
                         [](const auto& test) { return std::string(test.param); });

}  // namespace
}  // namespace blatam
