#include "core/table.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

namespace blatam {
namespace {

uint64_t none(Slot) { return 0; }

Slot lookup(const Table& table, uint64_t hash, Slot wanted) {
  return table.find(hash, [&](Slot slot) { return slot == wanted; });
}

TEST(Table, EmptyTableFindsNothing) {
  const Table table;
  EXPECT_EQ(lookup(table, 7, 0), kNoSlot);
}

TEST(Table, EqualHashesAreToldApartByTheCaller) {
  Table table;
  table.reserve(3, none);
  for (Slot slot = 0; slot < 3; ++slot) table.insert(42, slot);
  for (Slot slot = 0; slot < 3; ++slot) EXPECT_EQ(lookup(table, 42, slot), slot);
  table.erase(42, 1);
  EXPECT_EQ(lookup(table, 42, 0), 0u);
  EXPECT_EQ(lookup(table, 42, 1), kNoSlot);
  EXPECT_EQ(lookup(table, 42, 2), 2u);
}

// Few distinct homes, so that most entries are far from theirs and the last bucket goes on in the
// first.
TEST(Table, AgreesWithAMapUnderRandomInsertAndErase) {
  for (const uint64_t distinct : {1u, 3u, 17u, 1000000u}) {
    std::mt19937_64 random(distinct);
    Table table;
    std::map<Slot, uint64_t> model;
    for (int step = 0; step < 20000; ++step) {
      if (model.size() < 300 && random() % 100 < 52) {
        Slot slot = static_cast<Slot>(random() % 1000);
        while (model.contains(slot)) slot = (slot + 1) % 1000;
        // The low half chooses the home, the top byte is the tag.
        const uint64_t hash = 0x0100000000000000ull * (random() % 5) - random() % distinct - 1;
        table.reserve(table.size() + 1, [&](Slot inside) { return model.at(inside); });
        table.insert(hash, slot);
        model[slot] = hash;
      } else if (!model.empty()) {
        auto victim = model.begin();
        std::advance(victim, static_cast<long>(random() % model.size()));
        table.erase(victim->second, victim->first);
        EXPECT_EQ(lookup(table, victim->second, victim->first), kNoSlot);
        model.erase(victim);
      }
      ASSERT_EQ(table.size(), model.size());
      if (step % 64 != 0) continue;
      for (const auto& [slot, hash] : model) ASSERT_EQ(lookup(table, hash, slot), slot);
    }
  }
}

// Both buckets have passed something on: a lookup in vain must still come to an end.
TEST(Table, AnAbsentKeyIsAbsentEvenWhereEveryBucketHasOverflowed) {
  Table table;
  table.reserve(16, none);
  const uint64_t first = 0, second = 0xFFFFFFFF;  // their homes
  for (Slot slot = 0; slot < 13; ++slot) table.insert(first, slot);
  for (Slot slot = 0; slot < 12; ++slot) table.erase(first, slot);
  for (Slot slot = 20; slot < 32; ++slot) table.insert(second, slot);
  for (const uint64_t hash : {first, second}) {
    EXPECT_EQ(table.find(hash, [](Slot) { return false; }), kNoSlot);
  }
  EXPECT_EQ(lookup(table, first, 12), 12u);
  EXPECT_EQ(lookup(table, second, 31), 31u);
}

TEST(Table, TakesEightBytesAnEntry) {
  Table table;
  table.reserve(100'000, none);
  EXPECT_GE(table.room(), 100'000u);
  EXPECT_EQ(table.memory_bytes(), 100'000u * 8);
}

}  // namespace
}  // namespace blatam
