// A replay must count what a cache of the same policy would have counted. The oracle for objects is
// Shard itself, whatever policies there are; for prefixes and for the optimum it is a plain model.
#include "core/simulate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <stdexcept>

#include "core/bit_tree.h"
#include "core/shard.h"

namespace blatam {
namespace {

using Kind = Trace::Kind;
using Fault = Trace::Fault;
using Ids = std::vector<uint64_t>;

// Skewed: low numbers come often.
Ids skewed(uint32_t seed, size_t requests, uint64_t objects) {
  std::mt19937 random(seed);
  Ids ids(requests);
  for (uint64_t& id : ids) id = std::min(random() % objects, random() % objects) * 7919;
  return ids;
}

Tally replay(const Trace& trace, const Contestant& contestant, size_t stretch = SIZE_MAX) {
  Replay replay(trace, {contestant});
  while (replay.advance(stretch) < replay.requests()) continue;
  return replay.tallies()[0];
}

// ---- building a trace ---------------------------------------------------------------------------

TEST(Numbers, AreReadFromAnyWidthAndSign) {
  const std::vector<int8_t> bytes = {5, -1};
  const std::vector<uint16_t> shorts = {65535};
  const std::vector<int32_t> ints = {-7};
  const std::vector<uint64_t> longs = {~uint64_t{0}};
  EXPECT_EQ(Numbers(bytes)[0], 5u);
  EXPECT_TRUE(Numbers(bytes).negative(1));
  EXPECT_EQ(Numbers(shorts)[0], 65535u);
  EXPECT_TRUE(Numbers(ints).negative(0));
  EXPECT_EQ(Numbers(longs)[0], ~uint64_t{0});
  EXPECT_FALSE(Numbers(longs).negative(0));
}

TEST(TraceTest, NumbersObjectsInOrderOfFirstAppearance) {
  Trace trace(Kind::kObjects);
  ASSERT_EQ(trace.add(Ids{900, 3, 900, ~uint64_t{0}, 3}).taken, 5u);
  EXPECT_EQ(std::vector<Object>(trace.objects().begin(), trace.objects().end()),
            (std::vector<Object>{0, 1, 0, 2, 1}));
  EXPECT_EQ(trace.unique(), 3u);
  EXPECT_EQ(trace.hash(2), mix(~uint64_t{0}));
  EXPECT_EQ(trace.size(0), 0u);
}

TEST(TraceTest, AnotherSizeIsAnotherObject) {
  Trace trace(Kind::kSizedObjects);
  ASSERT_EQ(trace.add(Ids{1, 1, 1, 2}, Ids{10, 20, 10, 5}).taken, 4u);
  EXPECT_EQ(std::vector<Object>(trace.objects().begin(), trace.objects().end()),
            (std::vector<Object>{0, 1, 0, 2}));
  EXPECT_EQ(trace.hash(0), trace.hash(1));
  EXPECT_EQ(trace.bytes(), 45u);
  EXPECT_EQ(trace.unique_bytes(), 35u);
}

TEST(TraceTest, AWrongIdIsNamedAndThoseBeforeItAreTaken) {
  Trace objects(Kind::kObjects);
  const Trace::Added negative = objects.add(std::vector<int32_t>{4, 5, -6, 7});
  EXPECT_EQ(negative.taken, 2u);
  EXPECT_EQ(negative.fault, Fault::kNegativeId);
  EXPECT_EQ(objects.requests(), 2u);

  Trace sized(Kind::kSizedObjects);
  EXPECT_EQ(sized.add(Ids{1, 2}, std::vector<int64_t>{1, -2}).fault, Fault::kNegativeSize);
  EXPECT_EQ(sized.add(Ids{3}, Ids{Trace::kMostBytes}).fault, Fault::kTooHeavy);
  EXPECT_EQ(sized.add(Ids{3}, Ids{Trace::kMostBytes - 1}).fault, Fault::kNone);

  Trace prefixes(Kind::kPrefixes);
  EXPECT_EQ(prefixes.add_prompt(Ids{1, 2, 3}).fault, Fault::kNone);
  const Trace::Added stray = prefixes.add_prompt(Ids{1, 3});
  EXPECT_EQ(stray.taken, 1u);
  EXPECT_EQ(stray.fault, Fault::kTwoParents);
  EXPECT_EQ(Trace(Kind::kPrefixes).add_prompt(Ids{8, 8}).fault, Fault::kTwoParents);
  EXPECT_FALSE(fault_text(stray.fault).empty());
}

// ---- the set behind the optimum -----------------------------------------------------------------

TEST(BitTreeTest, AgreesWithASetOfNumbers) {
  for (const size_t bound : {1u, 63u, 64u, 65u, 4096u, 4097u, 300000u}) {
    SCOPED_TRACE(bound);
    std::mt19937 random(static_cast<uint32_t>(bound));
    BitTree tree(bound);
    std::set<size_t> model;
    EXPECT_EQ(tree.largest(), BitTree::kNone);
    for (int step = 0; step < 4000; ++step) {
      const size_t number = random() % bound;
      if (random() % 2 == 0) {
        tree.insert(number);
        model.insert(number);
      } else {
        ASSERT_EQ(tree.erase(number), model.erase(number) != 0);
      }
      ASSERT_EQ(tree.largest(), model.empty() ? BitTree::kNone : *model.rbegin());
      const auto above = model.lower_bound(number);
      ASSERT_EQ(tree.below(number), above == model.begin() ? BitTree::kNone : *std::prev(above));
    }
  }
}

TEST(BitTreeTest, OfNothingIsEmpty) { EXPECT_EQ(BitTree(0).largest(), BitTree::kNone); }

// ---- objects ------------------------------------------------------------------------------------

class ReplayTest : public testing::TestWithParam<std::string_view> {};

// Get, and put on a miss.
Tally ask_shard(std::string_view policy, Limits limits, const Ids& ids, const Ids& sizes) {
  struct Key {
    uint64_t id = 0;
    uint64_t size = 0;
  };
  using Cache = Shard<Key, int>;
  Cache shard({.limits = limits, .policy = policy});
  Tally tally;
  for (size_t i = 0; i < ids.size(); ++i) {
    Key key{ids[i], sizes.empty() ? 0 : sizes[i]};
    const auto found = shard.find(mix(key.id), [&](const Key& stored, const uint64_t&) {
      return stored.id == key.id && stored.size == key.size ? Match::kYes : Match::kNo;
    });
    ++tally.requests;
    tally.bytes_requested += key.size;
    if (found.slot != kNoSlot) {
      shard.hit(found.slot, 0);
      ++tally.hits;
      tally.bytes_hit += key.size;
      continue;
    }
    int value = 1;
    Cache::Removals removals;
    Cache::Put put;
    put.size = key.size;
    (void)shard.insert(mix(key.id), key, value, put, removals);
  }
  return tally;
}

void expect_equal(const Tally& a, const Tally& b) {
  EXPECT_EQ(a.requests, b.requests);
  EXPECT_EQ(a.hits, b.hits);
  EXPECT_EQ(a.bytes_requested, b.bytes_requested);
  EXPECT_EQ(a.bytes_hit, b.bytes_hit);
}

TEST_P(ReplayTest, CountsTheHitsOfACache) {
  const std::string policy(GetParam());
  for (const uint64_t capacity : {1u, 2u, 17u, 100u, 399u, 400u, 5000u}) {
    SCOPED_TRACE(capacity);
    const Ids ids = skewed(static_cast<uint32_t>(capacity), 8000, 400);
    Trace trace(Kind::kObjects);
    ASSERT_EQ(trace.add(ids).taken, ids.size());
    expect_equal(replay(trace, {policy, capacity}, 333),
                 ask_shard(policy, {.entries = capacity}, ids, {}));
  }
}

TEST_P(ReplayTest, CountsTheHitsOfACacheBoundedInBytes) {
  const std::string policy(GetParam());
  for (const uint64_t capacity : {1u, 30u, 700u, 20000u}) {
    SCOPED_TRACE(capacity);
    const Ids ids = skewed(static_cast<uint32_t>(capacity), 8000, 300);
    Ids sizes;
    // Some larger than the capacity, some of no bytes, some that change.
    for (size_t i = 0; i < ids.size(); ++i) sizes.push_back(ids[i] % 97 + (i % 50 == 0));
    Trace trace(Kind::kSizedObjects);
    ASSERT_EQ(trace.add(ids, sizes).taken, ids.size());
    expect_equal(replay(trace, {policy, capacity}, 1000),
                 ask_shard(policy, {.bytes = capacity}, ids, sizes));
  }
}

// ---- prefixes -----------------------------------------------------------------------------------

// Prompts that grow out of earlier ones: the ids of a tree's nodes from the root down.
std::vector<Ids> conversations(uint32_t seed, size_t prompts, size_t longest) {
  std::mt19937 random(seed);
  std::vector<Ids> result;
  uint64_t fresh = 0;
  for (size_t i = 0; i < prompts; ++i) {
    Ids prompt;
    if (!result.empty() && random() % 8 != 0) {
      prompt = result[result.size() - 1 - random() % std::min<size_t>(result.size(), 20)];
      prompt.resize(random() % (prompt.size() + 1));
    }
    const size_t length = random() % (longest + 1);
    while (prompt.size() < length) prompt.push_back(fresh++ * 31);
    result.push_back(prompt);
  }
  return result;
}

Trace trace_of(const std::vector<Ids>& prompts) {
  Trace trace(Kind::kPrefixes);
  for (const Ids& prompt : prompts) EXPECT_EQ(trace.add_prompt(prompt).fault, Fault::kNone);
  return trace;
}

// As the header tells it. later(a, b): whether a leaves before b.
template <class Later>
uint64_t plain_hits(const std::vector<Ids>& prompts, size_t capacity, Later&& later) {
  struct Resident {
    size_t touched = 0;
    size_t prompt = 0;  // that touched it
    uint64_t parent = 0;
    size_t children = 0;
  };
  std::map<uint64_t, Resident> residents;
  uint64_t hits = 0;
  size_t now = 0;
  for (size_t p = 0; p < prompts.size(); ++p) {
    const Ids& prompt = prompts[p];
    for (size_t i = 0; i < prompt.size() && residents.count(prompt[i]) != 0; ++i) ++hits;
    for (size_t i = 0; i < prompt.size(); ++i) {
      Resident& resident = residents[prompt[i]];
      resident.parent = i == 0 ? ~uint64_t{0} : prompt[i - 1];
      resident.touched = now + prompt.size() - i;
      resident.prompt = p;
    }
    now += prompt.size();
    while (residents.size() > capacity) {
      for (auto& [id, resident] : residents) resident.children = 0;
      for (auto& [id, resident] : residents) {
        const auto parent = residents.find(resident.parent);
        if (parent != residents.end()) ++parent->second.children;
      }
      auto victim = residents.end();
      for (auto it = residents.begin(); it != residents.end(); ++it) {
        if (it->second.children != 0) continue;
        if (victim == residents.end() || later(p, *it, *victim)) victim = it;
      }
      residents.erase(victim);
    }
  }
  return hits;
}

TEST(PrefixReplay, OfLruEvictsTheLeafUsedLongestAgo) {
  for (uint32_t seed = 0; seed < 12; ++seed) {
    SCOPED_TRACE(seed);
    const auto prompts = conversations(seed, 150, 12);
    const Trace trace = trace_of(prompts);
    for (const size_t capacity : {1u, 2u, 9u, 40u, 100000u}) {
      const uint64_t hits = plain_hits(prompts, capacity, [](size_t, auto& a, auto& b) {
        return a.second.touched < b.second.touched;
      });
      EXPECT_EQ(replay(trace, {"lru", capacity}, 7).hits, hits) << capacity;
    }
  }
}

TEST(PrefixReplay, OfTheOptimumEvictsTheLeafUsedFarthestAhead) {
  for (uint32_t seed = 0; seed < 12; ++seed) {
    SCOPED_TRACE(seed);
    const auto prompts = conversations(seed, 150, 12);
    const Trace trace = trace_of(prompts);
    const auto next = [&](size_t now, uint64_t id) {
      for (size_t p = now + 1; p < prompts.size(); ++p) {
        if (std::count(prompts[p].begin(), prompts[p].end(), id) != 0) return p;
      }
      return prompts.size();
    };
    for (const size_t capacity : {1u, 2u, 9u, 40u, 100000u}) {
      const uint64_t hits = plain_hits(prompts, capacity, [&](size_t now, auto& a, auto& b) {
        return next(now, a.first) > next(now, b.first);
      });
      EXPECT_EQ(replay(trace, {"belady", capacity}, 7).hits, hits) << capacity;
    }
  }
}

TEST_P(ReplayTest, OfPrefixesNeverBeatsTheOptimumAndHitsEverythingThatFits) {
  const std::string policy(GetParam());
  for (uint32_t seed = 0; seed < 5; ++seed) {
    SCOPED_TRACE(seed);
    const Trace trace = trace_of(conversations(seed, 400, 30));
    const uint64_t all = trace.requests() - trace.unique();
    for (const uint64_t capacity : {1u, 10u, 200u}) {
      const Tally tally = replay(trace, {policy, capacity});
      EXPECT_EQ(tally.requests, trace.requests());
      EXPECT_LE(tally.hits, replay(trace, {"belady", capacity}).hits);
      expect_equal(tally, replay(trace, {policy, capacity}, 1));
    }
    EXPECT_EQ(replay(trace, {policy, trace.unique()}).hits, all);
    EXPECT_EQ(replay(trace, {"belady", trace.unique()}).hits, all);
  }
}

INSTANTIATE_TEST_SUITE_P(All, ReplayTest, testing::ValuesIn(policy_names()),
                         [](const auto& test) { return std::string(test.param); });

// ---- the rest -----------------------------------------------------------------------------------

TEST(Replay, RefusesWhatItCannotRun) {
  const Trace trace(Kind::kObjects);
  EXPECT_THROW(Replay(trace, {{"lru", 0}}), std::invalid_argument);
  EXPECT_THROW(Replay(trace, {{"belady", 0}}), std::invalid_argument);
  EXPECT_THROW(Replay(trace, {{"lru", 1}, {"none", 1}}), std::invalid_argument);
}

TEST(Replay, OfNothingCountsNothing) {
  for (const Kind kind : {Kind::kObjects, Kind::kSizedObjects, Kind::kPrefixes}) {
    const Trace trace(kind);
    EXPECT_EQ(replay(trace, {"lru", 1}).requests, 0u);
    EXPECT_EQ(replay(trace, {"belady", 1}).requests, 0u);
  }
}

TEST(Replay, LeavesOutWhatTheTraceGotAfterwards) {
  Trace trace(Kind::kObjects);
  ASSERT_EQ(trace.add(Ids{1, 2, 1}).taken, 3u);
  Replay replay(trace, {{"lru", 5}, {"belady", 5}});
  ASSERT_EQ(trace.add(skewed(1, 1000, 500)).taken, 1000u);
  EXPECT_EQ(replay.advance(SIZE_MAX), 3u);
  EXPECT_EQ(replay.tallies()[0].hits, 1u);
  EXPECT_EQ(replay.tallies()[1].hits, 1u);
}

}  // namespace
}  // namespace blatam
