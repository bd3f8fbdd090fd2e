#include "core/table.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

namespace blatam {
namespace {

Slot lookup(const Table& table, uint64_t hash, Slot wanted) {
  return table.find(hash, [&](Slot slot) { return slot == wanted; });
}

TEST(Table, EmptyTableFindsNothing) {
  const Table table;
  EXPECT_EQ(lookup(table, 7, 0), kNoSlot);
}

TEST(Table, EqualHashesAreToldApartByTheCaller) {
  Table table;
  table.reserve(3);
  for (Slot slot = 0; slot < 3; ++slot) table.insert(42, slot);
  for (Slot slot = 0; slot < 3; ++slot) EXPECT_EQ(lookup(table, 42, slot), slot);
  table.erase(42, 1);
  EXPECT_EQ(lookup(table, 42, 0), 0u);
  EXPECT_EQ(lookup(table, 42, 1), kNoSlot);
  EXPECT_EQ(lookup(table, 42, 2), 2u);
}

// Few distinct homes, so that runs are long, wrap around the end and are cut in the middle.
TEST(Table, AgreesWithAMapUnderRandomInsertAndErase) {
  for (const uint64_t distinct : {3u, 17u, 1000000u}) {
    std::mt19937_64 random(distinct);
    Table table;
    std::map<Slot, uint64_t> model;
    for (int step = 0; step < 20000; ++step) {
      if (model.size() < 300 && random() % 100 < 52) {
        Slot slot = static_cast<Slot>(random() % 1000);
        while (model.contains(slot)) slot = (slot + 1) % 1000;
        // Homes near the end of the table wrap.
        const uint64_t hash = (random() % distinct) * 0x100000001ull - random() % 3;
        table.reserve(table.size() + 1);
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

}  // namespace
}  // namespace blatam
