// The policies that learn, where tests/policies has no patience or no reach: families of blocks,
// large caches with small shadows, saved states.
#include "core/adaptive.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/mix.h"
#include "core/policy.h"

namespace blatam {
namespace {

const std::vector<std::string_view> kLearning = {"density", "adaptive", "pattern"};

class LearningTest : public testing::TestWithParam<std::string_view> {};
INSTANTIATE_TEST_SUITE_P(All, LearningTest, testing::ValuesIn(kLearning),
                         [](const auto& test) { return std::string(test.param); });

// A cache of so many slots beside its policy: use() is a get, and a put if that missed.
class Replayed {
 public:
  Replayed(std::string_view name, const PolicyOptions& options, size_t capacity)
      : policy_(make_policy(name, options)), capacity_(capacity), key_in_(capacity) {
    policy_->set_capacity(capacity);
    policy_->grow(capacity);
  }
  Policy& policy() { return *policy_; }
  [[nodiscard]] uint64_t hits() const { return hits_; }

  void use(uint64_t key) {
    if (const auto found = slot_of_.find(key); found != slot_of_.end()) {
      ++hits_;
      return policy_->hit(found->second);
    }
    const Item item{.hash = mix(key)};
    Slot slot = static_cast<Slot>(slot_of_.size());
    if (slot_of_.size() == capacity_) {
      slot = policy_->evict(pins_, &item);
      slot_of_.erase(key_in_[slot]);
    }
    policy_->insert(slot, item);
    slot_of_[key] = slot;
    key_in_[slot] = key;
  }

 private:
  std::unique_ptr<Policy> policy_;
  size_t capacity_;
  Pins pins_;
  std::map<uint64_t, Slot> slot_of_;
  std::vector<uint64_t> key_in_;
  uint64_t hits_ = 0;
};

TEST_P(LearningTest, BlocksLeaveBeforeTheirParentsWhateverIsRemoved) {
  constexpr Slot kSlots = 60;
  for (uint32_t seed = 0; seed < 20; ++seed) {
    const auto policy = make_policy(GetParam());
    policy->grow(kSlots);
    policy->set_capacity(kSlots / 2);
    std::mt19937 random(seed);
    std::map<Slot, Slot> parents;  // of what is inside; kNoSlot for none
    const auto children = [&](Slot parent) {
      return std::count_if(parents.begin(), parents.end(),
                           [&](const auto& each) { return each.second == parent; });
    };
    const auto gone = [&](Slot slot) {
      parents.erase(slot);
      for (auto& [_, parent] : parents) {
        if (parent == slot) parent = kNoSlot;
      }
    };
    policy->begin_request(0);
    for (int step = 0; step < 4000; ++step) {
      const auto slot = static_cast<Slot>(random() % kSlots);
      const uint64_t hash = mix(slot + 1000 * (random() % 2));
      if (random() % 5 == 0) policy->begin_request(random() % 2 == 0 ? hash : 0);
      if (!parents.contains(slot)) {
        policy->insert(slot, {.hash = hash});
        parents[slot] = kNoSlot;
      } else if (const auto action = random() % 10; action < 4) {
        policy->hit(slot);
      } else if (action < 7) {
        const auto parent = static_cast<Slot>(random() % kSlots);
        // No circles: a parent is a smaller slot.
        if (parent >= slot || !parents.contains(parent)) continue;
        policy->link(parent, slot);
        if (parents[slot] == kNoSlot) parents[slot] = parent;
      } else if (action < 8) {
        policy->remove(slot);
        gone(slot);
      } else {
        const Slot victim = policy->evict({}, nullptr);
        ASSERT_TRUE(parents.contains(victim));
        ASSERT_EQ(children(victim), 0) << "seed " << seed << " step " << step;
        gone(victim);
      }
    }
    while (!parents.empty()) {
      const Slot victim = policy->evict({}, nullptr);
      ASSERT_TRUE(parents.contains(victim));
      ASSERT_EQ(children(victim), 0);
      gone(victim);
    }
    EXPECT_EQ(policy->evict({}, nullptr), kNoSlot);
  }
}

TEST_P(LearningTest, PromptsThatBeginLateAreTakenAsTheyCome) {
  const auto policy = make_policy(GetParam());
  policy->grow(100);
  policy->set_capacity(50);
  for (Slot slot = 0; slot < 50; ++slot) policy->insert(slot, {.hash = mix(slot)});
  for (Slot slot = 0; slot < 50; slot += 2) policy->hit(slot);
  policy->begin_request(mix(99));
  policy->insert(99, {.hash = mix(99)});
  std::set<Slot> victims;
  for (int i = 0; i < 51; ++i) victims.insert(policy->evict({}, nullptr));
  EXPECT_EQ(victims.size(), 51u);
  EXPECT_FALSE(victims.contains(kNoSlot));
}

TEST(AdaptiveTest, SampleOfALargeCacheLeadsItAsItsOwnShadowsWould) {
  constexpr size_t kCapacity = 20'000;
  Replayed full("adaptive", {.shadows = kCapacity}, kCapacity);
  Replayed sampled("adaptive", {.shadows = 500}, kCapacity);
  Replayed lru("lru", {}, kCapacity);
  for (uint64_t at = 0; at < 300'000; ++at) {
    const uint64_t key = at % 30'000;
    full.use(key);
    sampled.use(key);
    lru.use(key);
  }
  EXPECT_EQ(lru.hits(), 0u);
  EXPECT_GT(full.hits(), 130'000u);
  EXPECT_GT(sampled.hits(), full.hits() * 9 / 10);
  const auto report = sampled.policy().report();
  ASSERT_TRUE(report.has_value());
  EXPECT_EQ(report->sampled, 1.0 / 64);
  EXPECT_LT(sampled.policy().memory_bytes(), 60 * kCapacity);
}

TEST(AdaptiveTest, CapacityMayRiseAndFallWhileKeysAreSampled) {
  const auto policy = make_policy("adaptive", {.shadows = 16});
  policy->grow(4000);
  std::mt19937 random(3);
  std::set<Slot> inside;
  for (int step = 0; step < 40'000; ++step) {
    if (step % 50 == 0) policy->set_capacity(1 + random() % 4000);
    const auto slot = static_cast<Slot>(random() % 4000);
    if (random() % 3 == 0 && !inside.empty()) {
      const Slot victim = policy->evict({}, nullptr);
      ASSERT_EQ(inside.erase(victim), 1u);
    } else if (inside.contains(slot)) {
      policy->hit(slot);
    } else {
      policy->insert(slot, {.hash = mix(slot)});
      inside.insert(slot);
    }
  }
  const auto report = policy->report();
  for (const auto& shadow : report->shadows) {
    EXPECT_GE(shadow.hit_ratio, 0);
    EXPECT_LE(shadow.hit_ratio, 1);
  }
}

TEST(AdaptiveTest, CostDecidesWhichOrderSavesMost) {
  // A loop of cheap keys beside draws of dear ones: what counts is what a miss costs.
  PolicyOptions options;
  const auto policy = make_policy("adaptive", options);
  policy->grow(100);
  policy->set_capacity(100);
  policy->insert(0, {.hash = mix(1), .cost = 50});
  policy->hit(0);
  policy->insert(1, {.hash = mix(2), .cost = 0});
  policy->hit(1);
  const auto report = policy->report();
  // Of 50 + 50 + 0 + 0 the second fifty was saved.
  for (const auto& shadow : report->shadows) EXPECT_DOUBLE_EQ(shadow.hit_ratio, 0.5);
}

TEST(AdaptiveTest, StateGoesOnFromWhereItWas) {
  Replayed first("adaptive", {}, 300);
  for (uint64_t at = 0; at < 30'000; ++at) first.use(at % 450);
  const auto state = first.policy().save();
  Replayed second("adaptive", {}, 300);
  ASSERT_EQ(second.policy().restore(state), nullptr);
  EXPECT_EQ(second.policy().save(), state);
  EXPECT_EQ(second.policy().report()->leader, first.policy().report()->leader);
  for (size_t at = 0; at < state.size(); at += 97) {
    auto damaged = state;
    damaged[at] ^= 1;
    EXPECT_NE(second.policy().restore(damaged), nullptr) << at;
  }
  EXPECT_EQ(second.policy().save(), state);
  EXPECT_NE(second.policy().restore({}), nullptr);
}

TEST(AdaptiveTest, OptionsOutOfRangeAreRefused) {
  for (const auto& options : {PolicyOptions{.shadows = 0}, PolicyOptions{.shadows = 1 << 25},
                              PolicyOptions{.interval = 0}, PolicyOptions{.interval = 101},
                              PolicyOptions{.interval = std::nan("")}}) {
    EXPECT_THROW((void)make_policy("adaptive", options), std::invalid_argument);
  }
}

}  // namespace
}  // namespace blatam
