#include "core/shard.h"

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <random>
#include <set>
#include <stdexcept>
#include <string>

#include "core/mix.h"

namespace blatam {
namespace {

using Values = Shard<uint64_t, std::unique_ptr<int>>;

uint64_t hash_of(uint64_t key) { return mix(key + 1); }

Slot find(const Values& shard, uint64_t key) {
  return shard
      .find(hash_of(key), [&](uint64_t stored,
                              const uint64_t&) { return stored == key ? Match::kYes : Match::kNo; })
      .slot;
}

PutResult put(Values& shard, uint64_t key, const Values::Put& put, Values::Removals& removals) {
  auto value = std::make_unique<int>(static_cast<int>(key));
  uint64_t owned = key;
  const Slot slot = find(shard, key);
  return slot == kNoSlot ? shard.insert(hash_of(key), owned, value, put, removals)
                         : shard.replace(slot, owned, value, put, removals);
}

std::set<uint64_t> keys(const Values& shard) {
  std::set<uint64_t> found;
  shard.for_each([&](uint64_t key, const std::unique_ptr<int>&) { found.insert(key); });
  return found;
}

class EachPolicy : public testing::TestWithParam<std::string_view> {};

// From each policy to every other and back, between random operations, with pins, sizes, costs and
// deadlines: nothing leaves by it, and whoever may leave does so when there is no room.
TEST_P(EachPolicy, ChangesIntoEveryOtherAndLosesNothing) {
  std::mt19937_64 random(7);
  for (const std::string_view other : policy_names()) {
    Values shard({.limits = {.entries = 60, .bytes = 400}, .policy = GetParam()});
    for (Nanoseconds round = 0; round < 6; ++round) {
      for (int step = 0; step < 150; ++step) {
        Values::Removals removals;
        const uint64_t key = random() % 120;
        const Values::Put wanted{
            .size = random() % 12,
            .deadline = random() % 4 == 0 ? Nanoseconds{1} << 20 : Nanoseconds{0},
            .now = round,
            .cost = random() % 3 == 0 ? 4.0 : 1.0};
        (void)put(shard, key, wanted, removals);
        const Slot slot = find(shard, random() % 120);
        if (slot == kNoSlot) continue;
        switch (random() % 8) {
          case 0:
            shard.remove(slot, Reason::kDeleted, removals);
            break;
          case 1:
            if (shard.stats().pinned < 10) shard.pin(slot);
            break;
          case 2:
            (void)shard.unpin(slot);
            break;
          default:
            (void)shard.hit(slot, round);
        }
      }
      const std::set<uint64_t> before = keys(shard);
      const Stats stats = shard.stats();
      shard.change_policy(round % 2 == 0 ? other : GetParam(), {});
      EXPECT_EQ(keys(shard), before) << GetParam() << " to " << other;
      EXPECT_EQ(shard.stats().bytes, stats.bytes);
      EXPECT_EQ(shard.stats().pinned_bytes, stats.pinned_bytes);
      EXPECT_EQ(shard.stats().hits, stats.hits);
    }
    Values::Removals removals;
    const size_t pinned = shard.stats().pinned;
    shard.resize({.entries = 1, .bytes = 400}, removals);
    EXPECT_EQ(shard.entries(), std::max<size_t>(1, pinned));
  }
}

TEST_P(EachPolicy, ThatCannotBeMadeChangesNothing) {
  Values shard({.limits = {.entries = 2}, .policy = GetParam()});
  Values::Removals removals;
  ASSERT_EQ(put(shard, 1, {}, removals), PutResult::kInserted);
  EXPECT_THROW(shard.change_policy("lifo", {}), std::invalid_argument);
  EXPECT_THROW(shard.change_policy("adaptive", {.interval = 0}), std::invalid_argument);
  EXPECT_EQ(keys(shard), std::set<uint64_t>{1});
  shard.begin_request(hash_of(1));
  EXPECT_THROW(shard.change_policy("lru", {}), std::invalid_argument);
}

TEST_P(EachPolicy, TakesTheReinsOfAnEmptyShard) {
  Values shard({.limits = {.entries = 2}});
  shard.change_policy(GetParam(), {});
  for (uint64_t key = 0; key < 9; ++key) {
    Values::Removals removals;
    ASSERT_EQ(put(shard, key, {}, removals), PutResult::kInserted);
  }
  EXPECT_EQ(shard.entries(), 2u);
}

INSTANTIATE_TEST_SUITE_P(Policies, EachPolicy,
                         testing::ValuesIn(policy_names().begin(), policy_names().end()),
                         [](const auto& policy) { return std::string(policy.param); });

}  // namespace
}  // namespace blatam
