// Three policies that learn, over one structure. Entries lie in lists by when and how often they
// were used (aged_lists.h); a policy is nothing but the order in which those lists are emptied, so
// following another leader means ranking the lists anew: no entry moves.
//
//   density   the order learned from a life table (life_table.h): what promises the fewest hits for
//             its time goes first. Made for the blocks of prompts; untrained it is LRU
//   adaptive  runs shadows (shadows.h) of four orders beside the cache and follows the one whose
//             regret says so (regret.h); density leads at first. For blocks of prompts density
//             leads always
//   pattern   the rule "sequential: lru, random: lfu, mixed: adaptive", decided anew each interval
//
// The shadows see every request up to PolicyOptions::shadows entries of capacity, and a sample by
// hash beyond. They hear of requests by hit(), update() and insert(): a get that misses and is not
// followed by a put is no request to them, nor to any other policy.
//
// An entry takes 32 bytes, and up to 16 for recalling evicted ones where the shadows see a sample;
// the shadows take at most 1 KiB for each of PolicyOptions::shadows entries.
#pragma once

#include <memory>
#include <vector>

#include "core/aged_lists.h"
#include "core/calendar.h"
#include "core/policy.h"
#include "core/recall.h"
#include "core/regret.h"
#include "core/shadows.h"

namespace blatam {

class Adaptive : public Policy {
 public:
  explicit Adaptive(const PolicyOptions& options) : Adaptive(options, Rule::kRegret) {}

  void grow(size_t slots) override;
  void set_capacity(size_t entries) noexcept override;
  void insert(Slot slot, const Item& item) noexcept override;
  void hit(Slot slot) noexcept override { use(slot, -1); }
  void update(Slot slot, const Item& item) noexcept override {
    use(slot, static_cast<float>(item.cost));
  }
  [[nodiscard]] Slot evict(const Pins& pins, const Item* incoming) noexcept override;
  void remove(Slot slot) noexcept override;
  void begin_request() override;
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
    uint64_t hash = 0;
    uint32_t time = 0;
    uint8_t uses = 0;
    bool last = false;  // the last block of a prompt, when it was last used
  };
  // Of a block. Only leaves are in the lists.
  struct Family {
    Slot parent = kNoSlot;
    uint32_t children = 0;
  };
  // How often an order was right, in requests' cost.
  struct Score {
    double ever = 0;
    double lately = 0;
  };

  void use(Slot slot, float cost) noexcept;
  void pass_time() noexcept;
  void begin_day() noexcept;
  void rank() noexcept;
  void think() noexcept;
  void follow(Order order, double regret, double cost) noexcept;
  void place(Slot slot, bool oldest) noexcept;
  void depart(Slot slot) noexcept;
  [[nodiscard]] bool leaf(Slot slot) const noexcept {
    return !blocks_ || families_[slot].children == 0;
  }
  [[nodiscard]] size_t list_class(const Entry& entry) const noexcept {
    return blocks_ ? LifeTable::group_of(entry.uses, entry.last) : class_of(entry.uses);
  }

  static constexpr size_t kMostShadows = size_t{1} << 24;

  const Rule rule_;
  const double interval_;
  const size_t most_;  // entries of a shadow
  size_t slots_ = 0;
  size_t told_ = kUnbounded;
  size_t capacity_ = 1;
  uint64_t now_ = 0;    // in requests
  bool blocks_ = false;        // begin_request() is called
  bool tail_ = false;          // the next use is of the last block of a prompt
  uint64_t uses_today_ = 0;
  uint64_t day_ = 1;  // uses
  uint64_t days_ = 0;
  Calendar calendar_;
  AgedLists<1> lists_;
  std::vector<Entry> entries_;
  std::vector<Family> families_;  // of blocks
  Recall recall_;
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
