// Three policies that learn, over one structure. Entries lie in lists by when and how often they
// were used (aged_lists.h), and a policy is nothing but the order in which those lists are emptied
// (order.h): following another leader means ranking lists anew, and no entry moves.
//
//   density   the order of the life table: what promises the fewest hits for its time goes first,
//             weighed by what a hit saves and, where bytes are the limit, by what keeping it takes
//   adaptive  runs shadows of all orders beside the cache (shadows.h) and follows the one that
//             regret points to (regret.h); density leads at first
//   pattern   sequential requests: lru, random ones: lfu, mixed ones: as adaptive; decided anew
//             each interval
//
// For blocks of prompts each of them is density, in which a block never leaves before the blocks
// that continue it; that begins with the first begin_request().
//
// Requests are what a policy hears of: hit(), update() and insert(). A get that misses and is not
// followed by a put is none.
//
// An entry takes 24 bytes, 16 more for a block, and up to 16 more where the cache holds more
// entries than PolicyOptions::shadows; each of those takes 528 bytes, or 288 for density, once in
// the whole cache. Each octave of prices beyond the first takes 64 KiB, up to sixteen.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "core/aged_lists.h"
#include "core/calendar.h"
#include "core/order.h"
#include "core/policy.h"
#include "core/prices.h"
#include "core/recall.h"
#include "core/regret.h"
#include "core/shadows.h"

namespace blatam {

class Adaptive : public Policy {
 public:
  // Throws std::invalid_argument for options out of range.
  explicit Adaptive(const PolicyOptions& options) : Adaptive(options, Rule::kRegret) {}

  void grow(size_t slots) override;
  void set_capacity(size_t entries) noexcept override;
  void set_capacity_bytes(uint64_t bytes) noexcept override;
  void insert(Slot slot, const Item& item) noexcept override;
  void hit(Slot slot) noexcept override { use(slot, nullptr); }
  void update(Slot slot, const Item& item) noexcept override { use(slot, &item); }
  [[nodiscard]] Slot evict(const Pins& pins, const Item* incoming) noexcept override;
  [[nodiscard]] Guess next_victims() const noexcept override;
  void remove(Slot slot) noexcept override;
  [[nodiscard]] uint64_t uses(Slot slot) const noexcept override {
    return lists_.beside(slot).uses;
  }
  void begin_request(uint64_t last) override;
  void link(Slot parent, Slot child) noexcept override;
  [[nodiscard]] std::optional<PolicyReport> report() const override;
  [[nodiscard]] std::vector<uint8_t> save() const override;
  [[nodiscard]] const char* restore(std::span<const uint8_t> bytes) noexcept override;
  [[nodiscard]] size_t memory_bytes() const noexcept override;

 protected:
  enum class Rule : uint8_t { kDensity, kRegret, kPattern };
  Adaptive(const PolicyOptions& options, Rule rule);

 private:
  struct Entry {
    uint64_t hash;
    uint32_t used;  // the moment
    uint8_t uses;
    bool last;  // of the blocks of its prompt, when it was last used
    Octave price;
  };
  static_assert(sizeof(Entry) == 16);
  // Of a block. Those with children are in no list. A parent that was removed has another birth
  // than its children remember.
  struct Family {
    Slot parent = kNoSlot;
    uint32_t parent_birth = 0;
    uint32_t birth = 0;
    uint32_t children = 0;
  };
  // Hits of a shadow, or what they were worth.
  struct Score {
    double ever = 0;
    double lately = 0;
  };

  // item: what it is now, where that was told.
  void use(Slot slot, const Item* item) noexcept;
  void pass_use() noexcept;
  void begin_day() noexcept;
  void rank() noexcept;
  void follow_worth() noexcept;
  void think() noexcept;
  void follow(Order order, double regret, double cost) noexcept;
  void depart(Slot slot) noexcept;
  [[nodiscard]] Octave put_price(const Item& item) noexcept;
  [[nodiscard]] ListId list_of_today(const Entry& entry) const noexcept {
    return list_of(calendar_.today().id, class_of_entry(entry), prices_.shelf_of(entry.price));
  }
  // That is still inside, or kNoSlot.
  [[nodiscard]] Slot parent_of(Slot slot) const noexcept {
    const Family& family = families_[slot];
    const bool there =
        family.parent != kNoSlot && families_[family.parent].birth == family.parent_birth;
    return there ? family.parent : kNoSlot;
  }
  [[nodiscard]] size_t class_of_entry(const Entry& entry) const noexcept {
    return blocks_ ? LifeTable::group_of(entry.uses, entry.last) : class_of(entry.uses);
  }
  [[nodiscard]] Classes classes() const noexcept {
    return blocks_ ? Classes::kGroups : Classes::kUses;
  }

  const Rule rule_;
  const double interval_;
  const size_t most_;  // entries that a shadow may hold
  size_t slots_ = 0;
  size_t told_capacity_ = kUnbounded;
  size_t capacity_ = 1;
  bool blocks_ = false;  // begin_request() is called
  uint64_t last_ = 0;    // the hash of the last block of this prompt
  // A day is over after as many uses.
  uint64_t day_ = 1;
  uint64_t uses_today_ = 0;
  uint64_t uses_unseen_ = 0;     // since ages were last looked at
  uint64_t capacity_bytes_ = 0;  // 0: sizes do not count
  Calendar calendar_;
  Prices prices_;
  AgedLists<1, Prices::kShelves, Entry> lists_{calendar_};
  std::vector<Family> families_;  // of blocks
  Recall recall_;                 // of keys that no shadow sees
  Shadows shadows_;
  Regret<kOrders> regret_{static_cast<size_t>(Order::kDensity)};
  Order leader_ = Order::kDensity;

  std::array<Score, kOrders> scores_{};
  Score larger_;
  Score asked_;
  std::array<PolicyReport::Switch, 64> switches_{};  // a ring
  uint64_t switched_ = 0;
};

class Density final : public Adaptive {
 public:
  explicit Density(const PolicyOptions& options) : Adaptive(options, Rule::kDensity) {}
};

class ByPattern final : public Adaptive {
 public:
  explicit ByPattern(const PolicyOptions& options) : Adaptive(options, Rule::kPattern) {}
};

}  // namespace blatam
