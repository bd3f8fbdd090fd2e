// Shadows are caches without values, run beside the real one on the same requests, to see what
// other policies would have hit. All live over one directory of keys, by hash, that remembers of
// each key when and how often it was used, whether a shadow holds it or not, and teaches a
// LifeTable. They differ in one thing only: the order in which they let entries go.
//
//   lru      the least recently used first
//   lfu      the least often used first, the count surviving eviction; then the least recent
//   loop     the least often used first, then the most recently used: it keeps the part of a loop
//            that fits. Entries of the last two days are spared
//   density  the least worth first, by the life table
//
// and `larger`, density in a cache a quarter larger. Of a large cache the shadows see a sample: the
// keys whose hash ends in so many zeros, so that a key is always seen or never (Waldspurger 2015).
//
// A node takes 24 bytes, 48 of links, 8 of the queue and about 16 of the table, and there are
// kMemory nodes for each entry of a shadow's capacity.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "core/aged_lists.h"
#include "core/calendar.h"
#include "core/life_table.h"
#include "core/optimum.h"
#include "core/pattern.h"
#include "core/slot_list.h"
#include "core/table.h"

namespace blatam {

enum class Order : uint8_t { kLru, kLfu, kLoop, kDensity };
inline constexpr size_t kOrders = 4;
inline constexpr std::string_view kOrderNames[kOrders] = {"lru", "lfu", "loop", "density"};

#ifndef HALF
#define HALF 10
#endif
inline size_t halvings(uint64_t then, uint64_t now, size_t capacity) noexcept {
  const uint64_t period = HALF * capacity;
  return static_cast<size_t>(now / period - then / period);
}
// The rank of the lists of a unit, given by its index, in an order; the least leaves first. Those of
// lru, lfu and loop stay right while time passes, but for loop's when the unit is spared no more.
// blocks: the classes are groups of the life table, for density; else they are classes of uses.
void rank_unit(AgedRanks& ranks, Order order, const LifeTable& lives, const Calendar& calendar,
               size_t index, uint64_t now, size_t capacity, bool blocks) noexcept;
// The same for every unit.
void rank_all(AgedRanks& ranks, Order order, const LifeTable& lives, const Calendar& calendar,
              uint64_t now, size_t capacity, bool blocks) noexcept;
// What a new day changes in ranks. all: whether to look at the ages anew.
void rank_day(AgedRanks& ranks, Order order, const LifeTable& lives, const Calendar& calendar,
              uint64_t now, size_t capacity, bool blocks, bool all) noexcept;

class Shadows {
 public:
  // What happened to the sampled requests since tally() was last reset.
  struct Tally {
    uint64_t requests = 0;
    double asked = 0;                           // their cost, hit or not
    double real = 0;                            // hits, or their cost, of the real cache
    std::array<double, kOrders> hits{};         // of each shadow
    std::array<double, kOrders> only_real{};    // real hits that this shadow missed
    double larger = 0;
  };

  // most: entries that a shadow may hold. compete: false leaves only the directory.
  Shadows(size_t most, bool compete) noexcept : most_(most == 0 ? 1 : most), compete_(compete) {}

  // Room for what a cache of so many slots shows its shadows.
  void grow(size_t slots);
  // Requires entries > 0.
  void set_capacity(size_t entries, const Calendar& calendar) noexcept;

  [[nodiscard]] bool sees(uint64_t hash) const noexcept { return (hash >> kUnseenBits & mask_) == 0; }
  // A use of a key that sees() accepts, a hit of the real cache or not. cost: of a miss, negative
  // if it is not known anew. last: of the blocks of its prompt. Returns how often the key was used, this time included, as far as
  // that is remembered.
  uint8_t use(uint64_t hash, float cost, bool hit, bool last, uint64_t now,
              const Calendar& calendar) noexcept;
  // The real cache let go of a key that sees() accepts.
  void left(uint64_t hash) noexcept;
  // The key was deleted, or has expired.
  void remove(uint64_t hash, uint64_t now, const Calendar& calendar) noexcept;

  // A day has begun: units merge, and ranks follow. all: look at all ages anew.
  void merge(Calendar::UnitId kept, Calendar::UnitId gone) noexcept;
  void rank(const Calendar& calendar, uint64_t now) noexcept;
  void rank_day(const Calendar& calendar, uint64_t now, bool all) noexcept;
  // Learns if it is time to; then returns true, and ranks are to be computed anew.
  bool learn(const Calendar& calendar, uint64_t now) noexcept;

  [[nodiscard]] size_t capacity() const noexcept { return capacity_; }
  [[nodiscard]] unsigned sampled_bits() const noexcept { return bits_; }
  [[nodiscard]] bool competing() const noexcept { return compete_; }
  // From now on only the directory is kept.
  void stop_competing() noexcept;
  [[nodiscard]] const LifeTable& lives() const noexcept { return lives_; }
  // Learns from the cases that another has seen, as if they were its own.
  void restore(const LifeTable::Table<double>& hits, const LifeTable::Table<double>& forgotten,
               const Calendar& calendar, uint64_t now) noexcept;
  [[nodiscard]] const Tally& tally() const noexcept { return tally_; }
  void reset_tally() noexcept { tally_ = {}; }
  // Sampled keys that the real cache holds and this shadow does not: what changing to it discards.
  [[nodiscard]] uint64_t apart(Order order) const noexcept {
    return apart_[static_cast<size_t>(order)];
  }
  [[nodiscard]] const Pattern& pattern() const noexcept { return pattern_; }
  [[nodiscard]] Pattern& pattern() noexcept { return pattern_; }
  [[nodiscard]] const Optimum& optimum() const noexcept { return optimum_; }
  [[nodiscard]] size_t memory_bytes() const noexcept;

 private:
  static constexpr unsigned kLanes = kOrders + 1;  // the last is `larger`
  static constexpr uint8_t kReal = 0x80;  // in Node::in, beside a bit for each lane
  // Nodes for each entry of capacity. A key is forgotten when no cache holds it, in the order in
  // which the last one let it go.
  static constexpr size_t kMemory = 6;
  // The table takes its buckets from the low bits of a hash; the sample looks above them.
  static constexpr unsigned kUnseenBits = 40;

  struct Node {
    uint64_t hash = 0;
    float cost = 1;
    uint32_t time = 0;
    uint32_t optimum = 0;  // when the optimum saw it
    uint8_t uses = 0;
    uint8_t in = 0;
    bool last = false;  // the last block of a prompt, when it was last used
  };

  [[nodiscard]] Slot find(uint64_t hash) const noexcept {
    return table_.find(hash, [&](Slot id) { return nodes_[id].hash == hash; });
  }
  void learn_now(const Calendar& calendar, uint64_t now) noexcept;
  [[nodiscard]] Slot take(uint64_t hash, uint64_t now, const Calendar& calendar) noexcept;
  void forget(Slot id, uint64_t now, const Calendar& calendar) noexcept;
  void release(Slot id) noexcept;
  void evict(unsigned lane, const Calendar& calendar) noexcept;
  void set_real(Node& node, bool real) noexcept;
  [[nodiscard]] size_t lane_capacity(unsigned lane) const noexcept {
    return lane < kOrders ? capacity_ : capacity_ + (capacity_ + 3) / 4;
  }
  [[nodiscard]] uint32_t& living(const Node& node, uint64_t now, const Calendar& calendar) noexcept;

  const size_t most_;
  bool compete_;
  unsigned bits_ = 0;
  uint64_t mask_ = 0;
  size_t capacity_ = 1;
  std::vector<Node> nodes_;
  Table table_;
  AgedLists<kLanes> lists_;
  std::array<size_t, kLanes> held_{};
  SlotLinks queue_links_;
  SlotList queue_;  // held by no cache; the oldest is forgotten first
  Slot fresh_ = 0;
  Slot free_ = kNoSlot;
  LifeTable lives_;
  std::array<std::array<uint32_t, LifeTable::kGroups>, Calendar::kMostUnits> living_{};
  uint64_t inserted_ = 0;
  uint64_t learned_at_ = 0;
  uint64_t faded_at_ = 0;
  Tally tally_;
  std::array<uint64_t, kOrders> apart_{};
  Pattern pattern_;
  Optimum optimum_;
};

}  // namespace blatam
