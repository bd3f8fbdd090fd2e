// The timing wheel beside a map of deadlines: never early, at most a tick late, nothing lost.
#include "core/expiry.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <vector>

namespace blatam {
namespace {

constexpr Nanoseconds kTick = 1ull << 24;

std::vector<Slot> all_due(Expiry& expiry, Nanoseconds now) {
  std::vector<Slot> slots;
  for (unsigned budget = 1'000'000; budget != 0;) {
    const Slot slot = expiry.due(now, budget);
    if (slot == kNoSlot) break;
    slots.push_back(slot);
    expiry.set(slot, 0);
  }
  return slots;
}

class ExpiryTest : public testing::TestWithParam<Nanoseconds> {};

// The parameter is the span of the deadlines, so that every level of the wheel is used.
TEST_P(ExpiryTest, AgreesWithAMapOfDeadlines) {
  const Nanoseconds span = GetParam();
  for (uint32_t seed = 0; seed < 20; ++seed) {
    std::mt19937_64 random(seed);
    Nanoseconds now = random() % span;
    Expiry expiry(now);
    constexpr Slot kSlots = 50;
    expiry.grow(kSlots);
    std::map<Slot, Nanoseconds> deadlines;
    for (int step = 0; step < 4000; ++step) {
      const auto slot = static_cast<Slot>(random() % kSlots);
      switch (random() % 5) {
        case 0:
          expiry.set(slot, 0);
          deadlines.erase(slot);
          break;
        case 1:
          now += random() % (span / 64 + 2);
          break;
        default:  // earlier, later or the first: also one that has passed already
          expiry.set(slot, deadlines[slot] = 1 + now - std::min(now, kTick) + random() % span);
      }
      for (const Slot due : all_due(expiry, now)) {
        ASSERT_EQ(deadlines.count(due), 1u) << "seed " << seed << " step " << step;
        ASSERT_LE(deadlines[due], now);
        deadlines.erase(due);
      }
      for (const auto& [kept, deadline] : deadlines) {
        ASSERT_GT(deadline + kTick, now) << "seed " << seed << " step " << step;
        ASSERT_EQ(expiry.passed(kept, now), deadline <= now);
        ASSERT_EQ(expiry.deadline(kept), deadline);
      }
    }
    all_due(expiry, now + span + 2 * kTick);
    EXPECT_TRUE(all_due(expiry, ~0ull >> 1).empty());
    for (Slot slot = 0; slot < kSlots; ++slot) EXPECT_EQ(expiry.deadline(slot), 0u);
  }
}

INSTANTIATE_TEST_SUITE_P(Spans, ExpiryTest,
                         testing::Values(1'000ull, kTick, 50 * kTick, 5'000 * kTick, 1ull << 42,
                                         1ull << 48, 1ull << 54, 1ull << 58));

TEST(Expiry, WorkIsBoundedByTheBudget) {
  Expiry expiry(0);
  expiry.grow(1000);
  for (Slot slot = 0; slot < 1000; ++slot) expiry.set(slot, 5);
  unsigned budget = 3;
  for (int i = 0; i < 3; ++i) {
    const Slot slot = expiry.due(kTick, budget);
    ASSERT_NE(slot, kNoSlot);
    expiry.set(slot, 0);
  }
  EXPECT_EQ(budget, 0u);
  EXPECT_EQ(expiry.due(kTick, budget), kNoSlot);
  EXPECT_EQ(all_due(expiry, kTick).size(), 997u);
}

TEST(Expiry, ExtendedDeadlineIsNotDueAtTheOldOne) {
  Expiry expiry(0);
  expiry.grow(1);
  expiry.set(0, 10 * kTick);
  expiry.set(0, 20 * kTick);
  EXPECT_TRUE(all_due(expiry, 15 * kTick).empty());
  EXPECT_EQ(all_due(expiry, 22 * kTick).size(), 1u);
}

TEST(Expiry, TimeThatStandsStillOrGoesBackIsHarmless) {
  Expiry expiry(100 * kTick);
  expiry.grow(1);
  expiry.set(0, 101 * kTick);
  EXPECT_TRUE(all_due(expiry, 50 * kTick).empty());
  EXPECT_TRUE(all_due(expiry, 100 * kTick).empty());
  EXPECT_EQ(all_due(expiry, 103 * kTick).size(), 1u);
}

}  // namespace
}  // namespace blatam
