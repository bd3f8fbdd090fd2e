// Each policy beside a few obvious lines that must choose the same victims, step by step.
#include "core/policy.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

namespace blatam {
namespace {

struct Known {
  Slot slot;
  uint64_t inserted, used, count;
};

class Reference {
 public:
  explicit Reference(std::string_view policy) : policy_(policy) {}
  void insert(Slot slot) {
    ++now_;
    entries_.push_back({slot, now_, now_, 1});
  }
  void hit(Slot slot) {
    Known& entry = *find(slot);
    entry.used = ++now_;
    ++entry.count;
  }
  void remove(Slot slot) { entries_.erase(find(slot)); }
  [[nodiscard]] Slot victim(const Pins& pins) const {
    const Known* best = nullptr;
    for (const Known& entry : entries_) {
      if (!pins.holds(entry.slot) && (best == nullptr || before(entry, *best))) best = &entry;
    }
    return best == nullptr ? kNoSlot : best->slot;
  }

 private:
  [[nodiscard]] bool before(const Known& a, const Known& b) const {
    if (policy_ == "fifo") return a.inserted < b.inserted;
    if (policy_ == "lfu" && a.count != b.count) return a.count < b.count;
    return a.used < b.used;
  }
  std::vector<Known>::iterator find(Slot slot) {
    return std::find_if(entries_.begin(), entries_.end(),
                        [&](const Known& entry) { return entry.slot == slot; });
  }
  std::string policy_;
  std::vector<Known> entries_;
  uint64_t now_ = 0;
};

class PolicyTest : public testing::TestWithParam<std::string_view> {};

TEST_P(PolicyTest, ChoosesTheSameVictimsAsItsReference) {
  constexpr Slot kSlots = 40;
  for (uint32_t seed = 0; seed < 30; ++seed) {
    std::mt19937 random(seed);
    const auto policy = make_policy(GetParam());
    Reference reference(GetParam());
    Pins pins;
    std::vector<bool> inside(kSlots);
    size_t grown = 0;
    for (int step = 0; step < 3000; ++step) {
      const auto slot = static_cast<Slot>(random() % kSlots);
      const auto action = random() % 100;
      if (!inside[slot]) {
        if (slot >= grown) policy->grow(grown = slot + 1);
        policy->insert(slot);
        reference.insert(slot);
        inside[slot] = true;
      } else if (action < 70) {
        policy->hit(slot);
        reference.hit(slot);
      } else if (action < 75) {
        pins.pin(slot);
      } else if (action < 80) {
        if (pins.holds(slot)) pins.unpin(slot);
      } else if (action < 85) {
        policy->remove(slot);
        reference.remove(slot);
        pins.forget(slot);
        inside[slot] = false;
      } else {
        const Slot victim = policy->victim(pins);
        if (victim != kNoSlot) {
          policy->remove(victim);
          reference.remove(victim);
          inside[victim] = false;
        }
      }
      ASSERT_EQ(policy->victim(pins), reference.victim(pins))
          << "seed " << seed << " step " << step;
    }
  }
}

TEST_P(PolicyTest, EmptyPolicyHasNoVictim) {
  EXPECT_EQ(make_policy(GetParam())->victim(Pins()), kNoSlot);
}

TEST_P(PolicyTest, PinnedSlotIsNeverAVictim) {
  const auto policy = make_policy(GetParam());
  policy->grow(2);
  policy->insert(0);
  policy->insert(1);
  Pins pins;
  pins.pin(0);
  pins.pin(0);
  EXPECT_EQ(policy->victim(pins), 1u);
  pins.pin(1);
  EXPECT_EQ(policy->victim(pins), kNoSlot);
  EXPECT_FALSE(pins.unpin(0));
  EXPECT_EQ(policy->victim(pins), kNoSlot);
  EXPECT_TRUE(pins.unpin(0));
  EXPECT_EQ(policy->victim(pins), 0u);
}

INSTANTIATE_TEST_SUITE_P(All, PolicyTest, testing::ValuesIn(policy_names()),
                         [](const auto& test) { return std::string(test.param); });

TEST(PolicyRegistry, UnknownNameIsRefusedWithTheListOfNames) {
  try {
    (void)make_policy("mru");
    FAIL();
  } catch (const std::invalid_argument& error) {
    EXPECT_STREQ(error.what(), "unknown policy 'mru'; known: lru lfu fifo");
  }
}

}  // namespace
}  // namespace blatam
