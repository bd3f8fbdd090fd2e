#include "core/cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <list>
#include <map>
#include <random>
#include <stdexcept>
#include <vector>

namespace blatam {
namespace {

// A value that counts its references, so that a leak or a double release is seen.
struct Counted {
  int number;
  int references;
};
int live = 0;

const ValueOps kCounted = {
    [](void* handle) noexcept { ++static_cast<Counted*>(handle)->references; },
    [](void* handle) noexcept {
      auto* counted = static_cast<Counted*>(handle);
      if (--counted->references == 0) {
        delete counted;
        --live;
      }
    }};

Value make(int number) {
  ++live;
  return Value(new Counted{number, 1}, &kCounted);
}

int number(const Value& value) {
  return value ? static_cast<Counted*>(value.handle())->number : -1;
}

Digest key(uint64_t i) {
  const DigestKey plain;
  return plain.hash({reinterpret_cast<const uint8_t*>(&i), sizeof i});
}

PutResult put(Cache& cache, int i, uint64_t size = 1, Nanoseconds deadline = 0,
              Nanoseconds now = 0) {
  Value value = make(i);
  return cache.put(key(static_cast<uint64_t>(i)), value, size, deadline, now);
}

int get(Cache& cache, int i, Nanoseconds now = 0) {
  return number(cache.get(key(static_cast<uint64_t>(i)), now));
}

uint64_t removed(const Cache& cache, Reason reason) {
  return cache.stats().removals[static_cast<size_t>(reason)];
}

class CacheTest : public testing::Test {
 protected:
  void SetUp() override { live = 0; }
  void TearDown() override { EXPECT_EQ(live, 0) << "values leaked"; }
};

TEST_F(CacheTest, FullCacheEvictsTheLeastRecentlyUsed) {
  Cache cache({.limits = {.entries = 2}});
  put(cache, 1);
  put(cache, 2);
  EXPECT_EQ(get(cache, 1), 1);
  put(cache, 3);
  EXPECT_EQ(get(cache, 2), -1);
  EXPECT_EQ(get(cache, 1), 1);
  EXPECT_EQ(get(cache, 3), 3);
  EXPECT_EQ(removed(cache, Reason::kCapacity), 1u);
  EXPECT_EQ(cache.stats().entries, 2u);
}

TEST_F(CacheTest, ValueOutlivesItsEviction) {
  Cache cache({.limits = {.entries = 1}});
  put(cache, 1);
  const Value held = cache.get(key(1));
  put(cache, 2);
  cache.clear();
  EXPECT_EQ(number(held), 1);
  EXPECT_EQ(live, 1);
}

TEST_F(CacheTest, OversizedValueIsRefusedAndEvictsNothing) {
  Cache cache({.limits = {.bytes = 10}});
  put(cache, 1, 4);
  put(cache, 2, 4);
  EXPECT_EQ(put(cache, 3, 11), PutResult::kTooLarge);
  EXPECT_EQ(put(cache, 1, 11), PutResult::kTooLarge);  // the old value stays
  EXPECT_EQ(get(cache, 1), 1);
  EXPECT_EQ(get(cache, 2), 2);
  EXPECT_EQ(cache.stats().bytes, 8u);
  EXPECT_EQ(cache.stats().refused, 2u);
  EXPECT_EQ(put(cache, 3, 10), PutResult::kInserted);
  EXPECT_EQ(cache.stats().entries, 1u);
}

TEST_F(CacheTest, PinnedEntryIsNeverEvictedAndARefusedPutEvictsNothing) {
  Cache cache({.limits = {.entries = 3, .bytes = 10}});
  put(cache, 1, 4);
  put(cache, 2, 2);
  ASSERT_TRUE(cache.pin(key(1)));
  EXPECT_EQ(put(cache, 3, 7), PutResult::kPinned);
  EXPECT_EQ(cache.stats().entries, 2u);
  EXPECT_EQ(put(cache, 3, 6), PutResult::kInserted);
  EXPECT_EQ(get(cache, 2), -1);
  EXPECT_EQ(put(cache, 1, 5), PutResult::kReplaced);  // pinned, grown: 3 has to go
  EXPECT_EQ(get(cache, 3), -1);
  EXPECT_EQ(put(cache, 3, 6), PutResult::kPinned);
  EXPECT_TRUE(cache.unpin(key(1)));
  EXPECT_FALSE(cache.unpin(key(1)));
  EXPECT_EQ(put(cache, 3, 6), PutResult::kInserted);
  EXPECT_EQ(get(cache, 1), -1);
}

TEST_F(CacheTest, ExpiredEntryIsAMissAtItsDeadline) {
  Cache cache({.limits = {.entries = 10}});
  put(cache, 1, 1, /*deadline=*/100);
  EXPECT_EQ(get(cache, 1, 99), 1);
  EXPECT_TRUE(cache.contains(key(1), 99));
  EXPECT_FALSE(cache.contains(key(1), 100));
  EXPECT_EQ(get(cache, 1, 100), -1);
  EXPECT_EQ(removed(cache, Reason::kExpired), 1u);
  EXPECT_EQ(cache.stats().entries, 0u);
}

TEST_F(CacheTest, InsertsSweepExpiredEntriesAway) {
  Cache cache({.stripes = 1});
  for (int i = 0; i < 100; ++i) put(cache, i, 1, /*deadline=*/10);
  // A tick of the wheel later, each insert takes a few of them along.
  for (int i = 100; i < 110; ++i) put(cache, i, 1, 0, /*now=*/100'000'000);
  EXPECT_EQ(removed(cache, Reason::kExpired), 100u);
  EXPECT_EQ(cache.stats().entries, 10u);
}

TEST_F(CacheTest, ResizeEvictsDownToTheNewLimits) {
  Cache cache({.limits = {.entries = 10}});
  for (int i = 0; i < 10; ++i) put(cache, i);
  cache.resize({.entries = 3});
  EXPECT_EQ(cache.stats().entries, 3u);
  EXPECT_EQ(get(cache, 9), 9);
  EXPECT_EQ(get(cache, 6), -1);
}

TEST_F(CacheTest, StripesShareTheLimitsAndKeepTheBound) {
  Cache cache({.limits = {.entries = 1001}, .stripes = 8});
  EXPECT_EQ(cache.stripes(), 8u);
  for (int i = 0; i < 20000; ++i) put(cache, i);
  EXPECT_EQ(cache.stats().entries, 1001u);
}

TEST_F(CacheTest, BadOptionsAreRefused) {
  EXPECT_THROW(Cache({.policy = "mru"}), std::invalid_argument);
  EXPECT_THROW(Cache({.stripes = 3}), std::invalid_argument);
  EXPECT_THROW(Cache({.limits = {.entries = 4}, .stripes = 8}), std::invalid_argument);
}

// The whole vocabulary against an ordered list, deep-checked after each step.
TEST_F(CacheTest, AgreesWithAnOrderedListUnderRandomOperations) {
  struct Entry {
    int id;
    int value;
    uint64_t size;
    Nanoseconds deadline;
    int pins;
  };
  for (uint32_t seed = 0; seed < 40; ++seed) {
    std::mt19937 random(seed);
    const Limits limits{.entries = random() % 2 ? 8u : 0u, .bytes = random() % 2 ? 30u : 0u};
    Cache cache({.limits = limits});
    std::list<Entry> model;  // most recently used first
    Nanoseconds now = 1;
    auto bytes = [&] {
      uint64_t sum = 0;
      for (const Entry& entry : model) sum += entry.size;
      return sum;
    };
    auto over = [&](uint64_t more, uint64_t size) {
      return (limits.entries != 0 && model.size() + more > limits.entries) ||
             (limits.bytes != 0 && bytes() + size > limits.bytes);
    };
    for (int step = 0; step < 1500; ++step) {
      const int id = static_cast<int>(random() % 20);
      cache.expire(now);
      model.remove_if([&](const Entry& e) { return e.deadline != 0 && e.deadline <= now; });
      auto at =
          std::find_if(model.begin(), model.end(), [&](const Entry& e) { return e.id == id; });
      switch (random() % 8) {
        case 0:
        case 1:
        case 2: {
          const uint64_t size = random() % 35;
          const Nanoseconds deadline = random() % 4 ? 0 : now + 1 + random() % 20;
          uint64_t pinned_bytes = 0, pinned = 0;
          for (const Entry& e : model) {
            if (e.pins != 0 && e.id != id) pinned_bytes += e.size;
            if (e.pins != 0) ++pinned;
          }
          PutResult expected = at == model.end() ? PutResult::kInserted : PutResult::kReplaced;
          if (limits.bytes != 0 && size > limits.bytes) {
            expected = PutResult::kTooLarge;
          } else if ((limits.bytes != 0 && pinned_bytes + size > limits.bytes) ||
                     (at == model.end() && limits.entries != 0 && pinned >= limits.entries)) {
            expected = PutResult::kPinned;
          }
          Value value = make(step);
          ASSERT_EQ(cache.put(key(static_cast<uint64_t>(id)), value, size, deadline, now),
                    expected);
          if (expected == PutResult::kTooLarge || expected == PutResult::kPinned) {
            ASSERT_TRUE(value) << "a refused put keeps the caller's value";
            break;
          }
          int pins = 0;
          Entry kept{id, step, size, deadline, 0};
          if (at != model.end()) {
            pins = at->pins;
            // While room is made, the old entry counts with its old size and cannot leave.
            at->pins = 1;
            for (auto it = model.end();
                 it != model.begin() && size > at->size && over(0, size - at->size);) {
              --it;
              if (it->pins == 0) it = model.erase(it);
            }
            model.erase(at);
          } else {
            for (auto it = model.end(); it != model.begin() && over(1, size);) {
              --it;
              if (it->pins == 0) it = model.erase(it);
            }
          }
          kept.pins = pins;
          model.push_front(kept);
          break;
        }
        case 3:
        case 4:
          ASSERT_EQ(get(cache, id, now), at == model.end() ? -1 : at->value);
          if (at != model.end()) model.splice(model.begin(), model, at);
          break;
        case 5:
          ASSERT_EQ(cache.remove(key(static_cast<uint64_t>(id))), at != model.end());
          if (at != model.end()) model.erase(at);
          break;
        case 6:
          if (random() % 3 != 0) {
            ASSERT_EQ(cache.unpin(key(static_cast<uint64_t>(id))),
                      at != model.end() && at->pins > 0);
            if (at != model.end() && at->pins > 0) --at->pins;
          } else {
            ASSERT_EQ(cache.pin(key(static_cast<uint64_t>(id)), now), at != model.end());
            if (at != model.end()) ++at->pins;
          }
          break;
        case 7:
          if (random() % 40 == 0) {
            cache.clear();
            model.clear();
          }
          now += random() % 4;
          break;
      }
      const Stats stats = cache.stats();
      ASSERT_EQ(stats.entries, model.size()) << "seed " << seed << " step " << step;
      ASSERT_EQ(stats.bytes, bytes());
      ASSERT_EQ(stats.pinned,
                static_cast<uint64_t>(std::count_if(model.begin(), model.end(),
                                                    [](auto& e) { return e.pins != 0; })));
      ASSERT_EQ(live, static_cast<int>(model.size()));
      for (const Entry& e : model) {
        ASSERT_TRUE(
            cache.contains(key(static_cast<uint64_t>(e.id)), e.deadline ? e.deadline - 1 : now));
      }
    }
  }
}

}  // namespace
}  // namespace blatam
