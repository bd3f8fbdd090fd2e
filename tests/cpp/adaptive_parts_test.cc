// What the policies that learn are made of, each beside a slow and obvious model.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <map>
#include <random>
#include <set>
#include <tuple>
#include <vector>

#include "core/aged_lists.h"
#include "core/calendar.h"
#include "core/life_table.h"
#include "core/mix.h"
#include "core/optimum.h"
#include "core/pattern.h"
#include "core/prices.h"
#include "core/recall.h"
#include "core/regret.h"
#include "core/simulate.h"

namespace blatam {
namespace {

// ---- Calendar -----------------------------------------------------------------------------------

TEST(CalendarTest, HasFewerUnitsOfEachLengthThanItMayAndEveryMomentHasOne) {
  Calendar calendar;
  std::mt19937 random(1);
  std::vector<uint64_t> began = {0};  // each day
  for (int day = 1; day < 100'000; ++day) {
    for (uint64_t requests = random() % 3 + 1; requests != 0; --requests) calendar.pass_request();
    began.push_back(calendar.now());
    calendar.begin_day([](auto, auto) {});
    if (day > 500 && day % 997 != 0) continue;
    std::map<uint64_t, int> units;
    std::set<int> ids;
    uint64_t days = 0;
    for (size_t i = 0; i < calendar.size(); ++i) {
      ++units[calendar[i].days];
      ids.insert(calendar[i].id);
      EXPECT_EQ(
          calendar.unit_of(static_cast<uint32_t>(calendar.least_age(i) + (i == 0 ? 0 : 1))).id,
          calendar[i].id);
      EXPECT_EQ(calendar.unit_of(static_cast<uint32_t>(calendar.now() - calendar[i].start)).id,
                calendar[i].id);
      EXPECT_GE(calendar.middle_age(i), calendar.least_age(i));
      EXPECT_LE(calendar.middle_age(i), calendar.now() - calendar[i].start);
      // It begins with a day: as many ago as the units up to it have.
      days += calendar[i].days;
      if (i + 1 < calendar.size()) {
        EXPECT_EQ(calendar[i].start, began[began.size() - days]) << day;
      }
    }
    EXPECT_EQ(ids.size(), calendar.size());
    EXPECT_EQ(calendar[calendar.size() - 1].start, 0u);
    for (const auto& [length, count] : units) EXPECT_LE(count, length == 1 ? 16 : 4);
  }
}

TEST(CalendarTest, MergesTellWhichUnitTookOver) {
  Calendar calendar;
  std::map<Calendar::UnitId, std::set<uint64_t>> held = {{calendar.today().id, {0}}};
  for (uint64_t day = 1; day < 3000; ++day) {
    calendar.pass_request();
    calendar.begin_day([&](Calendar::UnitId kept, Calendar::UnitId gone) {
      held[kept].merge(held[gone]);
      held.erase(gone);
    });
    held[calendar.today().id].insert(day);
    ASSERT_EQ(held.size(), calendar.size());
  }
  for (uint64_t day = 0; day < 3000; ++day) {
    const auto& unit = calendar.unit_of(static_cast<uint32_t>(calendar.now() - day));
    EXPECT_TRUE(held[unit.id].contains(day)) << day;
  }
}

TEST(CalendarTest, AgesOutliveThirtyTwoBits) {
  Calendar calendar;
  for (int i = 0; i < 100; ++i) calendar.pass_request();
  const uint32_t moment = calendar.moment();
  for (int i = 0; i < 50; ++i) calendar.pass_request();
  EXPECT_EQ(calendar.age_of(moment), 50u);
  EXPECT_EQ(calendar.age_of(moment + 60), UINT32_MAX - 9);  // from before the count went round
  EXPECT_EQ(calendar.unit_of(UINT32_MAX - 9).start, 0u);
}

// ---- AgedLists ----------------------------------------------------------------------------------

// Which list the victim comes from; what follows checks the order within one.
TEST(AgedListsTest, ColdestIsInTheListThatASearchOfAllFinds) {
  constexpr unsigned kLanes = 2;
  constexpr unsigned kShelves = 3;
  constexpr Slot kSlots = 60;
  Calendar calendar;
  AgedLists<kLanes, kShelves> lists(calendar);
  struct Place {
    Calendar::UnitId unit;
    size_t list_class;
    unsigned shelf;
  };
  double prices[kShelves] = {1, 1, 1};
  unsigned used = 1;  // shelves
  lists.set_price(0, 1);
  lists.weigh_prices(1, true);
  std::map<Slot, Place> inside[kLanes];
  std::map<ListId, double> ranks[kLanes];
  Pins pins;
  std::mt19937 random(2);
  const auto rank = [&](unsigned lane, Calendar::UnitId unit, size_t list_class) {
    const ListId list = list_of(unit, list_class);
    lists.ranks(lane)[list] = ranks[lane][list] = static_cast<double>(random() % 5);
  };
  const auto merge = [&](Calendar::UnitId kept, Calendar::UnitId gone) {
    for (unsigned lane = 0; lane < kLanes; ++lane) {
      lists.merge(lane, kept, gone);
      for (size_t list_class = 0; list_class < kClasses; ++list_class) {
        ranks[lane][list_of(kept, list_class)] = ranks[lane][list_of(gone, list_class)];
      }
      for (auto& [_, place] : inside[lane]) {
        if (place.unit == gone) place.unit = kept;
      }
    }
  };
  // The rank, the age of the unit and the class of what would leave first; any may be pinned.
  const auto key_of = [&](unsigned lane, const Place& place) {
    size_t index = 0;
    while (calendar[index].id != place.unit) ++index;
    const double plain = ranks[lane][list_of(place.unit, place.list_class)];
    return std::tuple(plain * (lane == 1 ? prices[place.shelf] : 1), plain, calendar.size() - index,
                      place.list_class, place.shelf);
  };
  for (int step = 0; step < 60'000; ++step) {
    const unsigned lane = random() % kLanes;
    const auto slot = static_cast<Slot>(random() % kSlots);
    const size_t list_class = random() % kClasses;
    const auto grown = static_cast<Slot>(std::min(step / 100, static_cast<int>(kSlots)));
    lists.grow(grown);
    if (slot >= grown) continue;
    switch (random() % 9) {
      case 8: {
        const auto shelf = static_cast<unsigned>(random() % std::min(used + 1, kShelves));
        used = std::max(used, shelf + 1);
        prices[shelf] = static_cast<double>(random() % 4);
        lists.set_price(shelf, prices[shelf]);
        break;
      }
      case 0:
        calendar.pass_request();
        if (random() % 3 != 0) break;
        calendar.begin_day(merge);
        for (unsigned each = 0; each < kLanes; ++each) {
          for (size_t c = 0; c < kClasses; ++c) rank(each, calendar.today().id, c);
        }
        break;
      case 1:
        pins.holds(slot) ? (void)pins.unpin(slot) : (void)pins.pin(slot);
        break;
      case 2:
        rank(lane, calendar[random() % calendar.size()].id, list_class);
        break;
      default:
        if (inside[lane].erase(slot) != 0) {
          lists.unlink(lane, slot);
          break;
        }
        const Calendar::UnitId unit = calendar[random() % calendar.size()].id;
        const auto shelf = static_cast<unsigned>(random() % used);
        inside[lane][slot] = {unit, list_class, shelf};
        if (random() % 2 == 0) {
          lists.push_newest(lane, list_of(unit, list_class, shelf), slot);
        } else {
          lists.push_oldest(lane, list_of(unit, list_class, shelf), slot);
        }
    }
    for (const bool all : {true, false}) {
      const Slot got = all ? lists.coldest(lane) : lists.coldest(lane, pins);
      const Place* least = nullptr;
      for (const auto& [other, place] : inside[lane]) {
        if (!all && pins.holds(other)) continue;
        if (least == nullptr || key_of(lane, place) < key_of(lane, *least)) least = &place;
      }
      ASSERT_EQ(got == kNoSlot, least == nullptr) << step;
      if (least == nullptr) continue;
      ASSERT_EQ(key_of(lane, inside[lane].at(got)), key_of(lane, *least)) << step;
    }
    for (unsigned shelf = 0; shelf < used; ++shelf) {
      const bool empty = std::none_of(inside[lane].begin(), inside[lane].end(),
                                      [&](const auto& at) { return at.second.shelf == shelf; });
      ASSERT_EQ(lists.is_empty(lane, shelf), empty) << step;
    }
  }
}

TEST(AgedListsTest, ListsKeepTheirOrderThroughMerges) {
  Calendar calendar;
  AgedLists<1> lists(calendar);
  constexpr Slot kSlots = 3000;
  lists.grow(kSlots);
  const auto merge = [&](Calendar::UnitId kept, Calendar::UnitId gone) {
    lists.merge(0, kept, gone);
  };
  std::mt19937 random(3);
  for (Slot slot = 0; slot < kSlots; ++slot) {
    calendar.pass_request();
    if (random() % 2 == 0) {
      calendar.begin_day(merge);
      for (size_t c = 0; c < kClasses; ++c) {
        lists.ranks(0)[list_of(calendar.today().id, c)] = static_cast<double>(calendar.now());
      }
    }
    lists.push_newest(0, list_of(calendar.today().id, 3), slot);
  }
  for (Slot slot = 0; slot < kSlots; ++slot) {
    ASSERT_EQ(lists.coldest(0), slot);
    lists.unlink(0, slot);
  }
  EXPECT_EQ(lists.coldest(0), kNoSlot);
}

TEST(AgedListsTest, WhatIsPinnedIsPassedOverInTheSameOrder) {
  Calendar calendar;
  AgedLists<1> lists(calendar);
  lists.grow(30);
  Pins pins;
  for (Slot slot = 0; slot < 30; ++slot) {
    lists.ranks(0)[list_of(calendar.today().id, slot % 3)] = 2 - slot % 3;
    lists.push_newest(0, list_of(calendar.today().id, slot % 3), slot);
  }
  for (const Slot first : {2u, 1u, 0u}) {
    for (Slot slot = first; slot < 30; slot += 3) {
      ASSERT_EQ(lists.coldest(0, pins), slot);
      pins.pin(slot);
    }
  }
  EXPECT_EQ(lists.coldest(0, pins), kNoSlot);
}

// ---- Prices -------------------------------------------------------------------------------------

const auto nothing_is_empty = [](unsigned) { return false; };

TEST(PricesTest, WhatCostsTheSameSharesOneShelf) {
  Prices prices;
  for (int i = 0; i < 100; ++i) EXPECT_EQ(prices.put(0.3, nothing_is_empty), 0u);
  EXPECT_EQ(prices.shelves(), 1u);
  EXPECT_EQ(prices.price(0), 0.3);
}

TEST(PricesTest, OctavesAreThoseOfTheWholeRange) {
  EXPECT_EQ(Prices::octave_of(1), 0);
  EXPECT_EQ(Prices::octave_of(0.999), -1);
  EXPECT_EQ(Prices::octave_of(1.999), 0);
  EXPECT_EQ(Prices::octave_of(1024), 10);
  EXPECT_EQ(Prices::octave_of(0), -128);
  EXPECT_EQ(Prices::octave_of(5e-324), -128);
  EXPECT_EQ(Prices::octave_of(1e300), 127);
}

TEST(PricesTest, ShelfIsWorthWhatWasPutOnItOfLate) {
  Prices prices;
  for (int i = 0; i < 1000; ++i) (void)prices.put(i % 2 == 0 ? 1.0 : 1.5, nothing_is_empty);
  EXPECT_NEAR(prices.price(0), 1.25, 0.02);
  EXPECT_EQ(prices.put(0.99, nothing_is_empty), 1u);
  EXPECT_EQ(prices.price(1), 0.99);
}

TEST(PricesTest, WithoutAShelfLeftTheNearestTakesItOrAnEmptyOneDoes) {
  Prices prices;
  for (unsigned i = 0; i < Prices::kShelves; ++i) {
    EXPECT_EQ(prices.put(std::ldexp(1.0, 2 * static_cast<int>(i)), nothing_is_empty), i);
  }
  EXPECT_EQ(prices.put(1e-3, nothing_is_empty), 0u);
  EXPECT_EQ(prices.put(1e30, nothing_is_empty), Prices::kShelves - 1);
  EXPECT_EQ(prices.shelf_of(127), Prices::kShelves - 1);
  EXPECT_EQ(prices.put(1e-3, [](unsigned shelf) { return shelf == 5; }), 5u);
  EXPECT_EQ(prices.price(5), 1e-3);
  EXPECT_EQ(prices.shelf_of(-10), 5u);
  EXPECT_EQ(prices.shelf_of(10), 4u);  // its own was given away; of two as near the first
}

// ---- LifeTable ----------------------------------------------------------------------------------

TEST(LifeTableTest, UntrainedTheOlderIsWorthLess) {
  const LifeTable lives;
  for (uint64_t age = 1; age < uint64_t{1} << 33; age *= 2) {
    EXPECT_LT(lives.worth(0, age), lives.worth(0, age / 2));
    EXPECT_EQ(lives.worth(0, age), lives.worth(LifeTable::kGroups - 1, age));
  }
}

TEST(LifeTableTest, BinsAreNumberedWithoutAGapAndAgesNeverGoBack) {
  size_t last = 0;
  for (uint64_t age = 0; age < 5000; ++age) {
    const size_t bin = LifeTable::bin_of(age);
    EXPECT_TRUE(bin == last || bin == last + 1) << age;
    last = bin;
  }
  EXPECT_EQ(LifeTable::bin_of(UINT32_MAX), LifeTable::kBins - 1);
  EXPECT_EQ(LifeTable::bin_of(UINT64_MAX), LifeTable::kBins - 1);
}

TEST(LifeTableTest, InALoopTheOlderIsWorthMore) {
  LifeTable lives;
  for (int i = 0; i < 10'000; ++i) lives.used(1, 1000);
  LifeTable::Table living{};
  living[1][LifeTable::bin_of(2000)] = 1;
  lives.learn(living);
  for (const uint64_t age : {10, 100, 300, 500, 700}) {
    EXPECT_LT(lives.worth(1, age), lives.worth(1, age + 200));
  }
  EXPECT_LT(lives.worth(1, 1300), lives.worth(1, 10));  // it should have come back by then
}

TEST(LifeTableTest, WithoutMemoryEveryAgeIsWorthTheChanceOfAUse) {
  LifeTable lives;
  std::mt19937 random(4);
  std::geometric_distribution<uint32_t> time(0.01);
  for (int i = 0; i < 1'000'000; ++i) lives.used(0, time(random));
  lives.learn({});
  for (const uint64_t age : {0, 30, 100, 200}) EXPECT_NEAR(lives.worth(0, age), 0.01, 0.0025);
}

TEST(LifeTableTest, WhatIsNeverUsedAgainIsWorthLessThanWhatIs) {
  LifeTable lives;
  std::mt19937 random(5);
  std::geometric_distribution<uint32_t> time(0.01);
  LifeTable::Table living{};
  for (int i = 0; i < 2000; ++i) {
    lives.used(1, time(random));
    lives.forgotten(0, 500);
    living[0][LifeTable::bin_of(100)] += 1;
  }
  lives.learn(living);
  for (const uint64_t age : {0, 10, 50}) EXPECT_LT(lives.worth(0, age), lives.worth(1, age) / 5);
}

TEST(LifeTableTest, GroupWithoutCasesLeansOnAllOthers) {
  LifeTable lives;
  for (int i = 0; i < 1000; ++i) lives.used(1, 200);
  lives.learn({});
  EXPECT_NEAR(lives.worth(3, 100), lives.worth(1, 100), lives.worth(1, 100) * 0.1);
  lives.forgotten(3, 300);  // one case says little
  lives.learn({});
  EXPECT_GT(lives.worth(3, 100), lives.worth(1, 100) / 2);
}

TEST(LifeTableTest, WhatNothingIsKnownOfIsWorthNextToNothingAndLessWhenOlder) {
  LifeTable lives;
  for (int i = 0; i < 100; ++i) lives.forgotten(0, 500);
  lives.learn({});
  EXPECT_GT(lives.worth(0, 1000), 0);
  EXPECT_LT(lives.worth(0, 1000), lives.worth(0, 30));
  EXPECT_LT(lives.worth(0, 0), 1e-25);
}

TEST(LifeTableTest, OldCasesFade) {
  LifeTable lives;
  for (int i = 0; i < 8; ++i) lives.used(2, 7);
  lives.fade();
  EXPECT_EQ(lives.cases().used[2][7], 4);
  LifeTable other;
  other.restore(lives.cases());
  EXPECT_EQ(other.cases().used, lives.cases().used);
}

// ---- Regret -------------------------------------------------------------------------------------

using Two = Regret<2>;

Two::Interval interval(double real, double first, double second, double apart, double only_real) {
  return {.real = real,
          .hits = {first, second},
          .only_real = {0, only_real},
          .apart = {apart, apart},
          .fading = 1};
}

TEST(RegretTest, LeaderStaysWhileItsRivalIsNoBetter) {
  Two regret(0);
  for (int i = 0; i < 1000; ++i) {
    EXPECT_FALSE(regret.judge(interval(10, 10, i % 2 == 0 ? 5 : 15, 100, 5)));
  }
  EXPECT_EQ(regret.leader(), 0u);
}

TEST(RegretTest, LeaderChangesWhenWhatWasMissedExceedsWhatChangingCosts) {
  Two regret(0);
  int intervals = 0;
  while (!regret.judge(interval(10, 10, 20, 50, 0))) ++intervals;
  EXPECT_EQ(intervals, 5);  // the sixth ten exceeds fifty
  EXPECT_EQ(regret.leader(), 1u);
  EXPECT_EQ(regret.last_regret(), 60);
  EXPECT_EQ(regret.last_cost(), 50);
}

TEST(RegretTest, WhatItWouldForfeitMakesARivalDearer) {
  Two cheap(0);
  Two dear(0);
  int cheap_after = 0;
  int dear_after = 0;
  while (!cheap.judge(interval(10, 10, 20, 50, 0))) ++cheap_after;
  while (!dear.judge(interval(10, 10, 20, 50, 5))) ++dear_after;
  EXPECT_GT(dear_after, cheap_after);
}

TEST(RegretTest, CacheOnItsWayToItsLeaderIsNoReasonToLeaveIt) {
  Two regret(0);
  for (int i = 0; i < 100; ++i) {
    EXPECT_FALSE(regret.judge(interval(0, 30, 20, 10, 0)));  // the leader itself would do better
  }
}

TEST(RegretTest, ChangesThatWereRuedMakeTheNextDearer) {
  Two regret(0);
  const auto change = [&](size_t leader) {
    int intervals = 1;
    for (;; ++intervals) {
      // Whoever does not lead is better, and after a change the cache does worse than both.
      Two::Interval now = interval(5, 10, 10, 20, 0);
      now.hits[1 - leader] = 20;
      now.only_real = {3, 3};
      if (regret.judge(now)) return intervals;
    }
  };
  std::vector<int> waits;
  for (size_t i = 0; i < 6; ++i) waits.push_back(change(i % 2));
  EXPECT_GT(waits[4], waits[0]);
  EXPECT_EQ(regret.state().caution, Two::kMostCaution);
}

TEST(RegretTest, GoesOnFromASavedState) {
  Two first(0);
  for (int i = 0; i < 4; ++i) (void)first.judge(interval(10, 10, 20, 50, 1));
  Two second(0);
  second.restore(first.leader(), first.state());
  for (int i = 0; i < 20; ++i) {
    const auto next = interval(10, 10, 20, 50, 1);
    ASSERT_EQ(first.judge(next), second.judge(next)) << i;
    ASSERT_EQ(first.leader(), second.leader());
  }
}

// ---- Recall -------------------------------------------------------------------------------------

TEST(RecallTest, RemembersTheLatestAndSeldomTakesOneForAnother) {
  Recall recall;
  EXPECT_EQ(recall.uses(mix(1)), 0);
  recall.left(mix(1), 9);  // without room nothing is remembered
  recall.grow(1000);
  for (uint64_t key = 0; key < 1000; ++key) {
    recall.left(mix(key), static_cast<uint8_t>(key % 255 + 1));
  }
  int known = 0;
  for (uint64_t key = 0; key < 1000; ++key) {
    const int uses = recall.uses(mix(key));
    known += uses != 0;
    EXPECT_LE(uses, static_cast<int>(key % 255 + 1));
    EXPECT_TRUE(uses == 0 || 2 * uses > static_cast<int>(key % 255 + 1));
  }
  EXPECT_GT(known, 850);
  int mistaken = 0;
  for (uint64_t key = 10'000; key < 110'000; ++key) mistaken += recall.uses(mix(key)) != 0;
  EXPECT_LT(mistaken, 40);
}

// ---- Optimum ------------------------------------------------------------------------------------

// Beside Belady's algorithm, which knows what comes.
double belady(const std::vector<uint64_t>& keys, size_t capacity) {
  Trace trace(Trace::Kind::kObjects);
  (void)trace.add(keys);
  Replay replay(trace, {{"belady", capacity}});
  (void)replay.advance(keys.size());
  const auto hits = static_cast<double>(replay.tallies()[0].hits);
  return hits / static_cast<double>(keys.size());
}

void expect_near_belady(const std::vector<uint64_t>& keys, size_t capacity, double tolerance) {
  Optimum optimum;
  optimum.set_capacity(capacity, 7 * capacity);
  std::map<uint64_t, uint32_t> seen;
  for (const uint64_t key : keys) {
    const auto [found, first] = seen.try_emplace(key, 0);
    found->second = optimum.use(found->second, first, 1, 7);  // what all weigh matters to nobody
  }
  EXPECT_NEAR(optimum.hit_ratio(), belady(keys, capacity), tolerance) << capacity;
}

TEST(OptimumTest, IsCloseToBeladys) {
  std::mt19937 random(6);
  std::vector<uint64_t> skewed;
  std::vector<uint64_t> loop;
  for (uint64_t i = 0; i < 60'000; ++i) {
    skewed.push_back(std::min({random() % 3000, random() % 3000, random() % 3000}));
    loop.push_back(random() % 10 == 0 ? 5000 + random() % 500 : i % 900);
  }
  for (const size_t capacity : {60, 100, 500, 1000}) {
    expect_near_belady(skewed, capacity, 0.015);
    expect_near_belady(loop, capacity, 0.015);
  }
}

TEST(OptimumTest, SampleOfALargeCacheHasAboutTheSameRatio) {
  constexpr size_t kCapacity = 8192;
  std::mt19937 random(7);
  Optimum optimum;
  optimum.set_capacity(kCapacity, kCapacity);
  std::vector<uint64_t> keys;
  std::map<uint64_t, uint32_t> seen;
  for (int i = 0; i < 400'000; ++i) {
    keys.push_back(std::min(random() % 40'000, random() % 40'000));
    if (!optimum.sees(mix(keys.back()))) continue;
    const auto [found, first] = seen.try_emplace(keys.back(), 0);
    found->second = optimum.use(found->second, first, 1, 1);
  }
  EXPECT_LT(seen.size(), 40'000 / 4);
  EXPECT_NEAR(optimum.hit_ratio(), belady(keys, kCapacity), 0.03);
}

// ---- Pattern ------------------------------------------------------------------------------------

TEST(PatternTest, NamesWhatItSaw) {
  std::mt19937 random(8);
  Pattern scan;
  for (int i = 0; i < 1000; ++i) scan.first();
  scan.decide();
  EXPECT_EQ(scan.name(), "sequential");
  Pattern loop;
  for (int i = 0; i < 1000; ++i) loop.again(500 + static_cast<uint32_t>(random() % 20));
  loop.decide();
  EXPECT_EQ(loop.name(), "sequential");
  Pattern draws;
  std::geometric_distribution<uint32_t> time(0.002);
  for (int i = 0; i < 1000; ++i) draws.again(time(random));
  draws.decide();
  EXPECT_EQ(draws.name(), "random");
  Pattern both;
  for (int i = 0; i < 1000; ++i) i % 5 < 3 ? both.first() : both.again(time(random));
  both.decide();
  EXPECT_EQ(both.name(), "mixed");
}

TEST(PatternTest, OlderRequestsFade) {
  Pattern pattern;
  for (int i = 0; i < 1000; ++i) pattern.first();
  pattern.decide();
  std::mt19937 random(9);
  std::geometric_distribution<uint32_t> time(0.002);
  for (int interval = 0; interval < 4; ++interval) {
    for (int i = 0; i < 1000; ++i) pattern.again(time(random));
    pattern.decide();
  }
  EXPECT_EQ(pattern.label(), Pattern::Label::kRandom);
  Pattern silent;
  silent.restore(Pattern::Label::kSequential);
  silent.decide();  // nothing new: nothing to say
  EXPECT_EQ(silent.label(), Pattern::Label::kSequential);
}

}  // namespace
}  // namespace blatam
