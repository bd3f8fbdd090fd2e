// What policies are made of, and what only shows after a longer run than Python has patience for.
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <limits>
#include <map>
#include <random>
#include <tuple>
#include <vector>

#include "core/frequency_sketch.h"
#include "core/ghosts.h"
#include "core/policy.h"
#include "core/rank_queues.h"

namespace blatam {
namespace {

uint64_t mix(uint64_t x) {
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ x >> 27) * 0x94d049bb133111ebull;
  return x ^ x >> 31;
}

TEST(GhostsTest, RememberEachHashOnceAndForgetTheOldestWithoutRoom) {
  constexpr size_t kPlaces = 50;
  Ghosts<2> ghosts;
  ghosts.grow(kPlaces);
  std::deque<uint64_t> queues[2];
  std::mt19937 random(1);
  const auto drop = [&](uint64_t hash) {
    for (auto& queue : queues) std::erase(queue, hash);
  };
  for (int step = 0; step < 20'000; ++step) {
    const uint64_t hash = mix(random() % 90);
    const auto queue = static_cast<uint8_t>(random() % 2);
    switch (random() % 4) {
      case 0:
        if (const auto id = ghosts.find(hash); id != kNoSlot) ghosts.forget(id);
        drop(hash);
        break;
      case 1:
        ghosts.forget_oldest(queue);
        if (!queues[queue].empty()) queues[queue].pop_front();
        break;
      default:
        drop(hash);
        if (queues[0].size() + queues[1].size() == kPlaces) {
          queues[queues[queue].empty() ? 1 - queue : queue].pop_front();
        }
        queues[queue].push_back(hash);
        ghosts.push(queue, hash);
    }
    for (uint8_t q = 0; q < 2; ++q) ASSERT_EQ(ghosts.size(q), queues[q].size()) << step;
  }
  for (uint8_t q = 0; q < 2; ++q) {
    for (const uint64_t hash : queues[q]) {
      const auto id = ghosts.find(hash);
      ASSERT_NE(id, kNoSlot);
      EXPECT_EQ(ghosts.queue_of(id), q);
    }
  }
}

TEST(FrequencySketchTest, CountsAreNeverTooLowAndSeldomTooHigh) {
  FrequencySketch sketch;
  sketch.grow(1000);
  sketch.fit(1000);
  for (uint64_t key = 0; key < 1000; ++key) {
    for (uint64_t use = 0; use < key % 20; ++use) sketch.add(mix(key));
  }
  int too_high = 0;
  for (uint64_t key = 0; key < 1000; ++key) {
    const auto expected = static_cast<unsigned>(std::min<uint64_t>(key % 20, 15));
    EXPECT_GE(sketch.count(mix(key)), expected);
    too_high += sketch.count(mix(key)) > expected;
  }
  EXPECT_LT(too_high, 50);
}

TEST(FrequencySketchTest, AgeingHalvesAlsoWhatNobodyLooksAt) {
  FrequencySketch sketch;
  sketch.grow(16);
  for (int i = 0; i < 12; ++i) sketch.add(mix(1));
  for (int i = 0; i < 12; ++i) sketch.add(mix(2));
  for (const unsigned expected : {6u, 3u, 1u, 0u, 0u}) {
    sketch.age();
    EXPECT_EQ(sketch.count(mix(1)), expected);
  }
  EXPECT_EQ(sketch.count(mix(2)), 0u);  // five halvings at once
}

TEST(FrequencySketchTest, GrowingKeepsEveryCount) {
  FrequencySketch sketch;
  sketch.grow(64);
  for (uint64_t key = 0; key < 60; ++key) {
    for (uint64_t use = 0; use < key % 7; ++use) sketch.add(mix(key));
  }
  sketch.age();
  sketch.grow(100'000);
  sketch.fit(100'000);
  for (uint64_t key = 0; key < 60; ++key) EXPECT_GE(sketch.count(mix(key)), key % 7 / 2);
}

// Ranks start just below the point where they wrap.
TEST(RankQueuesTest, LowestIsTheLowestAlsoWhereRanksWrap) {
  constexpr Slot kSlots = 200;
  RankQueues<uint64_t> queues(37);
  queues.grow(kSlots);
  struct Place {
    uint64_t rank;  // from the start
    unsigned where;
    uint64_t order;
  };
  std::map<Slot, Place> inside;
  Pins pins;
  std::mt19937 random(2);
  constexpr uint64_t kStart = UINT64_MAX - 20'000;
  uint64_t clock = 0;
  for (uint64_t step = 0; step < 50'000; ++step) {
    const auto slot = static_cast<Slot>(random() % kSlots);
    if (const auto found = inside.find(slot); found != inside.end()) {
      if (random() % 4 == 0) {
        pins.holds(slot) ? (void)pins.unpin(slot) : (void)pins.pin(slot);
      } else {
        pins.forget(slot);
        queues.remove(slot);
        inside.erase(found);
      }
    } else {
      const auto where = static_cast<unsigned>(random() % 37);
      clock += random() % 3;
      queues.push(static_cast<uint16_t>(where), slot, kStart + clock + where);
      inside[slot] = {clock + where, where, step};
    }
    Slot expected = kNoSlot;
    for (const auto& [other, place] : inside) {
      if (pins.holds(other)) continue;
      const auto key = [&](Slot s) {
        const Place& at = inside.at(s);
        return std::tuple(at.rank, 37 - at.where, at.order);
      };
      if (expected == kNoSlot || key(other) < key(expected)) expected = other;
    }
    ASSERT_EQ(queues.lowest(pins), expected) << step;
  }
}

// The clock passes 2^60 and must still tell 2^-50 from 2^-49: a double has 53 bits in all.
TEST(GdsfTest, ClockKeepsSmallValuesApartAfterLargeOnes) {
  const auto policy = make_policy("gdsf");
  const Pins pins;
  policy->grow(3);
  for (int i = 0; i < (1 << 22); ++i) {
    policy->insert(0, {.cost = 0x1p39});
    ASSERT_EQ(policy->evict(pins, nullptr), 0u);
  }
  policy->insert(0, {.cost = 0x1p-49});
  policy->insert(1, {.cost = 0x1p-50});
  policy->insert(2, {.cost = 0x1p-48});
  EXPECT_EQ(policy->evict(pins, nullptr), 1u);
  EXPECT_EQ(policy->evict(pins, nullptr), 0u);
  EXPECT_EQ(policy->evict(pins, nullptr), 2u);
}

TEST(GdsfTest, CostsThatAreNoNumbersAreTheLowestValue) {
  const auto policy = make_policy("gdsf");
  const Pins pins;
  policy->grow(4);
  policy->insert(0, {.cost = 1});
  policy->insert(1, {.cost = -1});
  policy->insert(2, {.cost = std::numeric_limits<double>::quiet_NaN()});
  policy->insert(3, {.cost = std::numeric_limits<double>::infinity()});
  EXPECT_EQ(policy->evict(pins, nullptr), 1u);
  EXPECT_EQ(policy->evict(pins, nullptr), 2u);
  EXPECT_EQ(policy->evict(pins, nullptr), 0u);
  EXPECT_EQ(policy->evict(pins, nullptr), 3u);
}

// What a use is worth after as many requests as there are entries.
TEST(FadingLfuTest, UseLosesItsWorthWithRequestsNotWithTime) {
  const auto policy = make_policy("lfu", {.decay = 0.5});
  const Pins pins;
  policy->grow(4);
  for (Slot slot = 0; slot < 4; ++slot) policy->insert(slot, {});
  for (int i = 0; i < 3; ++i) policy->hit(0);                              // nearly 4 uses,
  for (int i = 0; i < 40; ++i) policy->hit(1 + static_cast<Slot>(i) % 3);  // faded ten times
  EXPECT_EQ(policy->evict(pins, nullptr), 0u);
}

}  // namespace
}  // namespace blatam
