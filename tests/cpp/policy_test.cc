// What every policy owes its owner, whatever it prefers. That each chooses the right victims is for
// tests/test_policies.py, where a slow reference in Python walks beside it.
#include "core/policy.h"

#include <gtest/gtest.h>

#include <random>
#include <set>
#include <string>
#include <vector>

namespace blatam {
namespace {

uint64_t mix(uint64_t x) {
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ x >> 27) * 0x94d049bb133111ebull;
  return x ^ x >> 31;
}

class PolicyTest : public testing::TestWithParam<std::string_view> {
 protected:
  std::unique_ptr<Policy> policy_ = make_policy(GetParam());
  Pins pins_;
  std::set<Slot> inside_;
  size_t grown_ = 0;

  void insert(Slot slot, uint64_t key) {
    if (slot >= grown_) policy_->grow(grown_ = slot + 1);
    policy_->insert(slot, {.hash = mix(key), .size = key % 7, .cost = double(key % 5)});
    inside_.insert(slot);
  }
  void remove(Slot slot) {
    policy_->remove(slot);
    pins_.forget(slot);
    inside_.erase(slot);
  }
  // Evicts and checks the answer.
  Slot evict(const Item* incoming) {
    bool free = false;
    for (const Slot slot : inside_) free |= !pins_.holds(slot);
    const Slot slot = policy_->evict(pins_, incoming);
    EXPECT_EQ(slot != kNoSlot, free);
    if (slot == kNoSlot) return slot;
    EXPECT_EQ(inside_.count(slot), 1u);
    EXPECT_FALSE(pins_.holds(slot));
    inside_.erase(slot);
    return slot;
  }
};

TEST_P(PolicyTest, EvictsEachSlotOnceAndNeverAPinnedOne) {
  constexpr Slot kSlots = 40;
  for (uint32_t seed = 0; seed < 30; ++seed) {
    SCOPED_TRACE(seed);
    policy_ = make_policy(GetParam());
    pins_ = Pins();
    inside_.clear();
    grown_ = 0;
    std::mt19937 random(seed);
    // Half the runs know their capacity from the start, half are told when they are full.
    if (seed % 2 == 0) policy_->set_capacity(kSlots);
    for (int step = 0; step < 3000 && !HasFailure(); ++step) {
      const auto slot = static_cast<Slot>(random() % kSlots);
      const auto action = random() % 100;
      const uint64_t key = random() % 120;
      if (inside_.count(slot) == 0) {
        insert(slot, key);
      } else if (action < 55) {
        policy_->hit(slot);
      } else if (action < 65) {
        policy_->update(slot, {.hash = mix(key), .size = step % 9u, .cost = double(step % 4)});
      } else if (action < 70) {
        pins_.pin(slot);
      } else if (action < 76) {
        if (pins_.holds(slot)) pins_.unpin(slot);
      } else if (action < 84) {
        remove(slot);
      } else if (action < 86) {
        policy_->set_capacity(1 + random() % kSlots);
      } else {
        const Item incoming{.hash = mix(key), .size = 3, .cost = 1};
        evict(random() % 4 == 0 ? nullptr : &incoming);
      }
    }
    while (!inside_.empty() && !HasFailure()) {  // what is left comes out, each once
      for (const Slot slot : inside_) pins_.forget(slot);
      evict(nullptr);
    }
  }
}

TEST_P(PolicyTest, EmptyPolicyHasNothingToEvict) {
  EXPECT_EQ(policy_->evict(pins_, nullptr), kNoSlot);
  policy_->grow(4);
  policy_->set_capacity(2);
  EXPECT_EQ(policy_->evict(pins_, nullptr), kNoSlot);
}

TEST_P(PolicyTest, PinnedSlotStays) {
  policy_->set_capacity(2);
  insert(0, 10);
  insert(1, 11);
  pins_.pin(0);
  pins_.pin(0);
  EXPECT_EQ(evict(nullptr), 1u);
  insert(1, 12);
  pins_.pin(1);
  EXPECT_EQ(evict(nullptr), kNoSlot);
  EXPECT_FALSE(pins_.unpin(0));
  EXPECT_EQ(evict(nullptr), kNoSlot);
  EXPECT_TRUE(pins_.unpin(0));
  EXPECT_EQ(evict(nullptr), 0u);
}

// A full cache that turns over for long: what is remembered of the evicted must stay bounded, so
// that grow(), the one call that allocates, is never needed again.
TEST_P(PolicyTest, TurnsOverWithoutGrowing) {
  constexpr Slot kSlots = 64;
  policy_->set_capacity(kSlots);
  for (Slot slot = 0; slot < kSlots; ++slot) insert(slot, slot);
  const size_t memory = policy_->memory_bytes();
  std::mt19937_64 random(5);
  for (uint64_t key = kSlots; key < 20'000 && !HasFailure(); ++key) {
    policy_->hit(*inside_.begin());
    const uint64_t next = random() % 3 == 0 ? random() % 300 : key;
    const Item incoming{.hash = mix(next), .size = next % 7, .cost = double(next % 5)};
    insert(evict(&incoming), next);
  }
  EXPECT_EQ(policy_->memory_bytes(), memory);
}

INSTANTIATE_TEST_SUITE_P(All, PolicyTest, testing::ValuesIn(policy_names()),
                         [](const auto& test) { return std::string(test.param); });

TEST(PolicyRegistry, UnknownNameIsRefusedWithTheListOfNames) {
  try {
    (void)make_policy("mru");
    FAIL();
  } catch (const std::invalid_argument& error) {
    const std::string message = error.what();
    EXPECT_EQ(message.rfind("unknown policy 'mru'; known: lru lfu fifo", 0), 0u) << message;
  }
}

}  // namespace
}  // namespace blatam
