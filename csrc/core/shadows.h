// Shadows are caches without values, run beside the real one on the same requests, to see what
// other policies would have hit. All live over one directory of keys, by hash, that remembers of
// each key when and how often it was used, whether a cache holds it or not, and teaches a
// LifeTable. There is one for each Order, and `larger`, ordered by density and a quarter larger.
//
// Of a large cache they see a sample: the keys some bits of whose hash are zero, so that a key is
// seen always or never (SHARDS, Waldspurger 2015), and their capacity is as much smaller.
//
// Where bytes are the limit a shadow holds what fits into as many, and where costs or sizes differ
// density weighs them as the real cache does.
//
// The directory has kNodes nodes for each entry of a shadow's capacity, of 88 bytes, or of 48 where
// no shadows compete and only the life table is wanted. A key that no cache holds is forgotten when
// there is no other node for a new one, in the order in which they were let go by the last cache.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/aged_lists.h"
#include "core/calendar.h"
#include "core/life_table.h"
#include "core/optimum.h"
#include "core/order.h"
#include "core/pattern.h"
#include "core/prices.h"
#include "core/slot_list.h"
#include "core/table.h"

namespace blatam {

class Shadows {
 public:
  // What the sampled requests came to since reset_tally(), each worth what a miss costs.
  struct Tally {
    uint64_t requests = 0;
    double asked = 0;  // if all had hit
    double real = 0;   // hits of the real cache
    double larger = 0;
    std::array<double, kOrders> hits{};       // of each shadow
    std::array<double, kOrders> only_real{};  // hits of the real cache that this shadow missed
  };

  // One use of a key.
  struct Use {
    bool hit = false;   // of the real cache
    bool last = false;  // of the blocks of its prompt
    float cost = -1;    // of a miss; negative: as before
    uint32_t size = 0;  // bytes; 0: as before
    Octave price = 0;
  };

  // most: entries that a shadow may hold, at least 1. Calendar and prices must outlive it.
  Shadows(const Calendar& calendar, const Prices& prices, size_t most, bool compete)
      : calendar_(calendar), prices_(prices), most_(most), compete_(compete), lists_(calendar) {
    for (unsigned lane = 0; lane < kLanes; ++lane) lists_.weigh_prices(lane, weighs(lane));
  }

  // Room for what a cache of so many slots shows its shadows. The only call that allocates.
  void grow(size_t slots);
  // Requires entries > 0.
  void set_capacity(size_t entries) noexcept;
  // As Policy's call of this name.
  void set_capacity_bytes(uint64_t bytes) noexcept;

  [[nodiscard]] bool sees(uint64_t hash) const noexcept {
    return (hash >> kUnseenBits & mask_) == 0;
  }
  // Ahead of use(), by as much as memory takes to answer.
  void prefetch(uint64_t hash) const noexcept { table_.prefetch(hash); }
  // Requires sees(hash). Returns how often the key was used, this time included, as far as that is
  // remembered.
  uint8_t use(uint64_t hash, const Use& use) noexcept;
  // The real cache let go of a key. Requires sees(hash).
  void left(uint64_t hash) noexcept;
  // The key was deleted, or has expired. Requires sees(hash).
  void remove(uint64_t hash) noexcept;

  // A shelf's price has changed.
  void set_price(unsigned shelf, double price) noexcept {
    if (compete_) lists_.set_price(shelf, price);
  }
  [[nodiscard]] bool is_empty(unsigned shelf) const noexcept {
    return lists_.is_empty(kDensity, shelf) && lists_.is_empty(kLarger, shelf);
  }

  // A day has begun, and these units have become one: for Calendar::begin_day().
  void merge(Calendar::UnitId kept, Calendar::UnitId gone) noexcept;
  // Ranks follow the day that has begun; all: and the ages of all units.
  void rank_day(bool all) noexcept;
  // Those of density, as of then. Requires competes().
  [[nodiscard]] const Ranks& ranks_of_density() const noexcept { return lists_.ranks_of(kDensity); }
  // Learns if it is time to. Returns true if it did: what life tables rank is to be ranked anew.
  bool learn() noexcept;

  // From now on only the directory is kept.
  void stop_competing() noexcept;
  [[nodiscard]] bool competes() const noexcept { return compete_; }

  [[nodiscard]] size_t capacity() const noexcept { return capacity_; }
  // Of the hash, so many decide whether a key is seen.
  [[nodiscard]] unsigned sampled_bits() const noexcept { return bits_; }
  [[nodiscard]] const Tally& tally() const noexcept { return tally_; }
  void reset_tally() noexcept { tally_ = {}; }
  // How many keys the real cache holds and this shadow does not.
  [[nodiscard]] uint64_t apart(Order order) const noexcept {
    return apart_[static_cast<size_t>(order)];
  }
  [[nodiscard]] const LifeTable& lives() const noexcept { return lives_; }
  [[nodiscard]] Pattern& pattern() noexcept { return pattern_; }
  [[nodiscard]] const Pattern& pattern() const noexcept { return pattern_; }
  [[nodiscard]] const Optimum& optimum() const noexcept { return optimum_; }
  // Learns from the cases that another has seen, in place of its own.
  void restore(const LifeTable::Cases& cases) noexcept;

  [[nodiscard]] size_t memory_bytes() const noexcept;

 private:
  static constexpr unsigned kLanes = kOrders + 1;  // the last is `larger`
  static constexpr unsigned kLarger = kOrders;
  static constexpr auto kDensity = static_cast<unsigned>(Order::kDensity);
  static constexpr size_t kNodes = 6;
  static constexpr uint8_t kReal = 0x80;  // of Node::in, beside a bit for each lane
  // Tables and tags take the bits of a hash below and above these.
  static constexpr unsigned kUnseenBits = 32;

  struct alignas(32) Node {  // in one line of memory
    uint64_t hash = 0;       // of a free node: the next free one
    float cost = 1;
    uint32_t used = 0;     // the moment
    uint32_t optimum = 0;  // what the optimum calls that moment
    uint32_t size = 1;     // bytes, up to 4 GiB
    uint8_t uses = 0;
    uint8_t in = 0;     // which caches hold it
    bool last = false;  // when it was last used
    Octave price = 0;
  };
  static_assert(sizeof(Node) == 32);

  [[nodiscard]] bool in(const Node& node, unsigned lane) const noexcept {
    return (node.in >> lane & 1) != 0;
  }
  [[nodiscard]] Slot find(uint64_t hash) const noexcept {
    return table_.find(hash, [&](Slot id) { return nodes_[id].hash == hash; });
  }
  static size_t group_of(const Node& node) noexcept {
    return LifeTable::group_of(node.uses, node.last);
  }
  // What a lane may hold, and what a key takes of that: entries or bytes.
  [[nodiscard]] uint64_t room_of(unsigned lane) const noexcept {
    return lane == kLarger ? room_ + (room_ + 3) / 4 : room_;
  }
  [[nodiscard]] uint64_t weight(const Node& node) const noexcept {
    return capacity_bytes_ == 0 ? 1 : node.size;
  }
  static Order order_of(unsigned lane) noexcept {
    return lane == kLarger ? Order::kDensity : static_cast<Order>(lane);
  }
  static bool weighs(unsigned lane) noexcept { return order_of(lane) == Order::kDensity; }
  [[nodiscard]] Slot take(uint64_t hash) noexcept;
  void forget(Slot id) noexcept;
  void take_out(Slot id) noexcept;
  void fit_room() noexcept;
  void resize(Node& node, uint32_t size) noexcept;
  void evict(unsigned lane) noexcept;
  void set_real(Node& node, bool real) noexcept;
  void stop_living(const Node& node) noexcept;
  void drop_unseen() noexcept;
  void learn_now() noexcept;

  const Calendar& calendar_;
  const Prices& prices_;
  const size_t most_;
  bool compete_;
  unsigned bits_ = 0;
  uint64_t mask_ = 0;
  size_t capacity_ = 1;
  uint64_t capacity_bytes_ = 0;
  uint64_t room_ = 1;
  std::vector<Node> nodes_;
  Table table_;
  AgedLists<kLanes, Prices::kShelves> lists_;
  std::array<uint64_t, kLanes> held_{};
  SlotLinks queue_links_;
  SlotList queue_;  // held by no cache; the oldest is forgotten first
  Slot fresh_ = 0;  // nodes from here on were never used
  Slot free_ = kNoSlot;
  LifeTable lives_;
  // Keys remembered, by the unit and the group they were last used in.
  std::array<std::array<uint32_t, LifeTable::kGroups>, Calendar::kMostUnits> living_{};
  uint64_t missed_ = 0;      // by the real cache
  uint64_t learned_at_ = 0;  // missed_
  uint64_t faded_at_ = 0;    // missed_
  Tally tally_;
  std::array<uint64_t, kOrders> apart_{};
  Pattern pattern_;
  Optimum optimum_;
};

}  // namespace blatam
