#include "core/prefix_index.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

namespace blatam {
namespace {

using Path = std::vector<int>;  // a prompt: the numbers of its blocks

Digest name_of(const Path& path, size_t blocks) {
  const DigestKey plain;
  return plain.hash({reinterpret_cast<const uint8_t*>(path.data()), blocks * sizeof(int)});
}

std::vector<Digest> names_of(const Path& path) {
  std::vector<Digest> names;
  for (size_t i = 1; i <= path.size(); ++i) names.push_back(name_of(path, i));
  return names;
}

// An index and the slow, obvious one beside it.
class PrefixIndexTest : public testing::Test {
 protected:
  explicit PrefixIndexTest(uint64_t capacity = 6, const char* policy = "lru")
      : index(capacity, policy) {}

  size_t find(const Path& path) {
    std::vector<Slot> slots;
    index.find(names_of(path), slots);
    return slots.size();
  }

  // Returns what left for it; kept: how many of its blocks are here then.
  std::vector<Slot> add(const Path& path, uint64_t weight = 1) {
    const auto names = names_of(path);
    const std::vector<uint64_t> weights(path.size(), weight);
    std::vector<Slot> slots, evicted;
    old = index.add(names.back(), root, true, names, weights, false, slots, evicted);
    kept = slots.size();
    return evicted;
  }

  const Digest root = name_of({-1}, 1);
  PrefixIndex index;
  size_t old = 0, kept = 0;
};

TEST_F(PrefixIndexTest, FindsTheLongestPrefix) {
  add({1, 2, 3});
  EXPECT_EQ(find({1, 2, 3, 4}), 3u);
  EXPECT_EQ(find({1, 2, 4}), 2u);
  EXPECT_EQ(find({2, 3}), 0u);
  EXPECT_EQ(find({}), 0u);
  EXPECT_EQ(index.entries(), 3u);
  EXPECT_EQ(index.pinned(), 2u);
}

TEST_F(PrefixIndexTest, EvictsTheEndsOfTheOldestPromptFirst) {
  add({1, 2, 3});
  add({4, 5, 6});
  EXPECT_EQ(add({7, 8}).size(), 2u);
  EXPECT_EQ(find({1, 2, 3}), 1u);
  index.use(name_of({1, 9}, 2), names_of({1}));
  add({1, 9});
  EXPECT_EQ(find({1, 9}), 2u);
  EXPECT_EQ(find({4, 5, 6}), 2u);
}

TEST_F(PrefixIndexTest, KeepsTheBeginningOfWhatIsTooLong) {
  add({1, 2});
  EXPECT_TRUE(add({1, 2, 3, 4, 5, 6, 7, 8}).empty());  // of what left at once nothing is said
  EXPECT_EQ(old, 2u);
  EXPECT_EQ(kept, 6u);
  EXPECT_EQ(find({1, 2, 3, 4, 5, 6, 7, 8}), 6u);
  EXPECT_EQ(index.bytes(), 6u);
}

TEST_F(PrefixIndexTest, PinsHoldWhatIsBefore) {
  add({1, 2, 3});
  EXPECT_TRUE(index.pin(name_of({1, 2}, 2)));
  EXPECT_FALSE(index.pin(name_of({9}, 1)));
  add({4, 5, 6, 7, 8, 9});
  EXPECT_EQ(find({1, 2, 3}), 2u);
  EXPECT_EQ(find({4, 5, 6, 7, 8, 9}), 4u);
  EXPECT_TRUE(index.unpin(name_of({1, 2}, 2)));
  EXPECT_FALSE(index.unpin(name_of({1, 2}, 2)));
  EXPECT_FALSE(index.unpin(name_of({1}, 1)));  // held by its follower, not by a pin
  add({4, 5, 6, 7, 8, 9});
  EXPECT_EQ(find({1, 2}), 0u);
}

TEST_F(PrefixIndexTest, NothingEntersWhereAllIsPinned) {
  add({1, 2, 3, 4, 5, 6});
  EXPECT_TRUE(index.pin(name_of({1, 2, 3, 4, 5, 6}, 6)));
  EXPECT_TRUE(add({7, 8}).empty());
  EXPECT_EQ(kept, 0u);
  EXPECT_EQ(find({7}), 0u);
  EXPECT_EQ(index.bytes(), 6u);
}

TEST_F(PrefixIndexTest, ABlockWithoutItsParentIsNotTaken) {
  const std::vector<Digest> names = {name_of({1, 2}, 2)};
  const std::vector<uint64_t> weights = {1};
  std::vector<Slot> slots, evicted;
  index.add(names[0], name_of({1}, 1), false, names, weights, false, slots, evicted);
  EXPECT_TRUE(slots.empty());
  EXPECT_EQ(index.entries(), 0u);
}

TEST_F(PrefixIndexTest, WhatIsPlannedIsHereWhenItIsFilled) {
  const Path path = {1, 2, 3, 4, 5, 6, 7, 8};
  const auto names = names_of(path);
  std::vector<Slot> slots, evicted;
  EXPECT_EQ(
      index.add(names.back(), root, true, names, std::vector<uint64_t>(8, 1), true, slots, evicted),
      0u);
  EXPECT_EQ(slots.size(), 6u);
  EXPECT_EQ(index.bytes(), 6u);
  EXPECT_EQ(find(path), 0u);
  EXPECT_FALSE(index.pin(names[0]));
  EXPECT_EQ(index.fill(names[0], 1, evicted), slots[0]);
  EXPECT_EQ(index.fill(names[0], 1, evicted), kNoSlot);
  EXPECT_EQ(index.fill(names[7], 1, evicted), kNoSlot);
  EXPECT_EQ(find(path), 1u);
  EXPECT_TRUE(add({1, 2}).empty());  // somebody else has it
  EXPECT_EQ(old, 1u);
  EXPECT_EQ(find(path), 2u);
  EXPECT_EQ(index.fill(names[2], 3, evicted), slots[2]);  // as heavy as two more
  EXPECT_TRUE(evicted.empty());
  EXPECT_EQ(index.bytes(), 6u);
  index.abandon(names);
  EXPECT_EQ(find(path), 3u);
  EXPECT_EQ(index.bytes(), 5u);
  EXPECT_EQ(index.entries(), 3u);
}

TEST_F(PrefixIndexTest, WhatIsRemovedTakesPlansAlong) {
  const auto names = names_of({1, 2, 3});
  std::vector<Slot> slots, evicted;
  add({1});
  (void)index.add(names.back(), root, true, names, std::vector<uint64_t>(3, 1), true, slots,
                  evicted);
  EXPECT_NE(index.remove(names[0]), kNoSlot);
  EXPECT_EQ(index.entries(), 0u);
  EXPECT_EQ(index.fill(names[1], 1, evicted), kNoSlot);
  index.abandon(names);
}

TEST_F(PrefixIndexTest, OnlyEndsAreRemoved) {
  add({1, 2, 3});
  EXPECT_EQ(index.remove(name_of({1, 2}, 2)), kNoSlot);
  EXPECT_NE(index.remove(name_of({1, 2, 3}, 3)), kNoSlot);
  EXPECT_NE(index.remove(name_of({1, 2}, 2)), kNoSlot);
  EXPECT_EQ(find({1, 2}), 1u);
  EXPECT_EQ(index.pinned(), 0u);
}

TEST_F(PrefixIndexTest, FollowersAreListedTheNewestFirst) {
  add({1, 2});
  add({1, 3});
  add({4});
  std::vector<Slot> below, beginnings, one, none;
  index.followers(name_of({1}, 1), false, 9, below);
  index.followers(root, true, 9, beginnings);
  index.followers(root, true, 1, one);
  index.followers(name_of({7}, 1), true, 9, none);
  std::vector<Slot> found;
  index.find(names_of({1, 3}), found);
  ASSERT_EQ(below.size(), 2u);
  EXPECT_EQ(below[0], found[1]);
  EXPECT_EQ(beginnings.size(), 2u);
  EXPECT_EQ(beginnings[1], found[0]);
  EXPECT_EQ(one.size(), 1u);
  EXPECT_TRUE(none.empty());
}

TEST_F(PrefixIndexTest, ASmallerBoundEvictsDownToIt) {
  add({1, 2, 3});
  std::vector<Slot> evicted;
  index.resize(2, evicted);
  EXPECT_EQ(evicted.size(), 1u);
  EXPECT_EQ(find({1, 2, 3}), 2u);
}

TEST(PrefixIndex, RefusesAnUnknownPolicy) {
  EXPECT_THROW(PrefixIndex(1, "best"), std::invalid_argument);
}

// Beside a map of what is inside, for every policy: sums, parents, lists and the bound.
TEST(PrefixIndex, HoldsTogetherUnderRandomCalls) {
  for (const std::string_view policy : policy_names()) {
    std::mt19937 random(7);
    const auto below = [&](unsigned n) { return static_cast<int>(random() % n); };
    PrefixIndex index(40, policy);
    const Digest root = name_of({-1}, 1);
    struct Held {
      Path path;
      uint64_t weight;
      int pins;
    };
    std::map<Slot, Held> inside;
    const auto leave = [&](Slot slot) {
      ASSERT_EQ(inside.count(slot), 1u) << policy;
      for (const auto& [other, held] : inside) {
        ASSERT_FALSE(held.path.size() == inside[slot].path.size() + 1 &&
                     std::equal(held.path.begin(), held.path.end() - 1, inside[slot].path.begin()))
            << policy << ": left before what continues it";
      }
      inside.erase(slot);
    };
    struct Plan {
      Path path;
      std::vector<Digest> names;
      size_t next = 0;  // to be filled
    } plan;             // of one owner at a time
    const auto abandon = [&] {
      index.abandon(plan.names);
      plan = {};
    };
    for (int round = 0; round < 1200; ++round) {
      Path path(static_cast<size_t>(1 + below(6)));
      for (int& block : path) block = below(3);
      const auto names = names_of(path);
      std::vector<Slot> slots, evicted;
      switch (below(10)) {
        case 0:
        case 1: {
          std::vector<uint64_t> weights;
          for (size_t i = 0; i < path.size(); ++i) {
            weights.push_back(1 + static_cast<uint64_t>(path[i]));
          }
          const size_t old =
              index.add(names.back(), root, true, names, weights, false, slots, evicted);
          ASSERT_LE(slots.size(), path.size());
          // What left, the newest of it, can only have left before what came took its slot.
          for (const Slot slot : evicted) {
            ASSERT_EQ(inside[slot].pins, 0) << policy;
            leave(slot);
          }
          for (size_t i = 0; i < slots.size(); ++i) {
            ASSERT_EQ(inside.count(slots[i]) != 0, i < old) << policy;
            inside.try_emplace(
                slots[i],
                Held{Path(path.begin(), path.begin() + 1 + static_cast<std::ptrdiff_t>(i)),
                     weights[i], 0});
          }
          break;
        }
        case 2:
          index.use(names.back(), names);
          break;
        case 3: {
          index.find(names, slots);
          if (slots.empty() || below(4) != 0) break;
          const bool pinned = index.pin(names[slots.size() - 1]);
          ASSERT_TRUE(pinned);
          ++inside[slots.back()].pins;
          break;
        }
        case 4:
          for (auto& [slot, held] : inside) {
            if (held.pins == 0) continue;
            ASSERT_TRUE(index.unpin(name_of(held.path, held.path.size())));
            --held.pins;
          }
          break;
        case 5:
          if (!plan.names.empty()) break;
          plan = {path, names, 0};
          index.find(names, slots);
          plan.next = slots.size();
          (void)index.add(names.back(), root, true, names, std::vector<uint64_t>(path.size(), 2),
                          true, slots, evicted);
          for (const Slot slot : evicted) leave(slot);
          break;
        case 6:
        case 7: {
          if (plan.next == plan.names.size()) break;
          const auto weight = static_cast<uint64_t>(1 + below(4));
          const Slot slot = index.fill(plan.names[plan.next], weight, evicted);
          for (const Slot gone : evicted) leave(gone);
          ++plan.next;
          const auto end = plan.path.begin() + static_cast<std::ptrdiff_t>(plan.next);
          if (slot != kNoSlot)
            inside.try_emplace(slot, Held{Path(plan.path.begin(), end), weight, 0});
          index.find(plan.names, slots);
          if (slots.size() < plan.next) abandon();
          break;
        }
        case 8:
          abandon();
          break;
        default: {
          index.find(names, slots);
          if (slots.empty()) break;
          const Slot slot = index.remove(names[slots.size() - 1]);
          if (slot != kNoSlot) leave(slot);
        }
      }
      uint64_t bytes = 0;
      for (const auto& [slot, held] : inside) {
        bytes += held.weight;
        std::vector<Slot> found;
        index.find(names_of(held.path), found);
        ASSERT_EQ(found.size(), held.path.size()) << policy;
        ASSERT_EQ(found.back(), slot) << policy;
      }
      ASSERT_LE(index.bytes(), 40u) << policy;
      if (plan.names.empty()) {
        ASSERT_EQ(index.bytes(), bytes) << policy;
        ASSERT_EQ(index.entries(), inside.size()) << policy;
      }
    }
  }
}

}  // namespace
}  // namespace blatam
