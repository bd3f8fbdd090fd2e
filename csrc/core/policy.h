// A Policy decides which entry leaves. It sees dense slot numbers and hashes, never keys or values,
// and its whole vocabulary is insert, hit, update, evict, remove. It takes no lock, reads no clock
// and allocates only in grow(); whoever owns it calls it from one thread at a time.
//
// Eviction comes before insertion: a full cache first asks for a slot, naming what is to come, then
// inserts into it. Policies known from papers in the other order are written so that the result is
// the paper's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

namespace blatam {

using Slot = uint32_t;
inline constexpr Slot kNoSlot = 0xFFFFFFFF;

// How often each slot is pinned. A pinned slot stays in its policy, is hit as usual, and is passed
// over when a victim is chosen, so that unpinning finds it where its history put it.
class Pins {
 public:
  [[nodiscard]] bool any() const noexcept { return pinned_ != 0; }
  [[nodiscard]] size_t pinned() const noexcept { return pinned_; }
  [[nodiscard]] bool holds(Slot slot) const noexcept {
    return pinned_ != 0 && slot < counts_.size() && counts_[slot] != 0;
  }

  // Room for slots [0, slots): pin() of these then allocates nothing.
  void reserve(size_t slots) {
    if (slots > counts_.size()) counts_.resize(slots);
  }

  // Returns true if the slot was not pinned before. May throw std::bad_alloc.
  bool pin(Slot slot) {
    if (slot >= counts_.size()) counts_.resize(slot + size_t{1});
    pinned_ += counts_[slot] == 0;
    return counts_[slot]++ == 0;
  }
  // Requires holds(slot). Returns true if that was its last pin.
  bool unpin(Slot slot) noexcept {
    const bool last = --counts_[slot] == 0;
    pinned_ -= last;
    return last;
  }
  void forget(Slot slot) noexcept {
    if (!holds(slot)) return;
    counts_[slot] = 0;
    --pinned_;
  }

 private:
  std::vector<uint32_t> counts_;
  size_t pinned_ = 0;
};

// What a policy may know of an entry.
struct Item {
  uint64_t hash = 0;  // of the key, well mixed: what has left is remembered by it
  uint64_t size = 0;  // bytes; 0: unknown
  double cost = 1;    // of computing the value again, in any unit
};

// Options of single policies; each ignores those of the others.
struct PolicyOptions {
  // lfu: what a use is worth after as many requests as there are entries. 1: counts never fade.
  double decay = 1;
  // tinylfu: share of the entries in the window, from 0 to 1. Negative: it adapts.
  double window = -1;
  // adaptive, density, pattern: how many entries the shadows may hold. A larger cache shows them a
  // sample of its keys.
  size_t shadows = 16'384;
  // adaptive, pattern: how often they decide, as a share of the capacity in requests.
  double interval = 0.1;
};

// What a policy that watches itself has to say. Ratios are of the requests it saw, in [0, 1].
struct PolicyReport {
  struct Shadow {
    std::string_view name;
    double hit_ratio = 0;         // so far
    double recent_hit_ratio = 0;  // of the last sixteen capacities of requests, older ones fading
  };
  struct Switch {
    uint64_t request = 0;  // how many there had been
    std::string_view from;
    std::string_view to;
    double regret = 0;  // hits that the old leader had missed, scaled up from the sample
    double cost = 0;    // the hits that changing was expected to cost
  };
  std::string_view leader;
  std::string_view pattern;  // sequential, random or mixed
  uint64_t requests = 0;
  double sampled = 1;  // share of the keys that the shadows see
  std::vector<Shadow> shadows;
  std::vector<Switch> switches;  // the last of them, oldest first
  uint64_t switched = 0;         // how often in all
  // The same figures for the optimum, which knows the future, and for a cache a quarter larger.
  double optimum = 0;
  double larger = 0;
  double larger_by = 0.25;
};

class Policy {
 public:
  // A capacity that is not known, or not limited.
  static constexpr size_t kUnbounded = SIZE_MAX;

  Policy() = default;
  Policy(const Policy&) = delete;
  Policy& operator=(const Policy&) = delete;
  virtual ~Policy() = default;

  // Makes room for slots [0, slots), and for what the policy remembers of the evicted. The only
  // call that allocates; never shrinks.
  virtual void grow(size_t slots) = 0;
  // How many entries fit, for policies that divide them into regions; kUnbounded until this is
  // called. Called before the first insert; again when a limit changes; and before evict() where
  // the limit is one of bytes, with as many as there are. Requires entries > 0.
  virtual void set_capacity(size_t entries) noexcept { (void)entries; }
  // How many bytes fit, where sizes decide what does; 0 where they do not, as before the first
  // call. Called before the first insert, and when the limit changes.
  virtual void set_capacity_bytes(uint64_t bytes) noexcept { (void)bytes; }

  // Requires slot < the last grow() and slot not inside.
  virtual void insert(Slot slot, const Item& item) noexcept = 0;
  // The entry was read. Requires slot inside.
  virtual void hit(Slot slot) noexcept = 0;
  // Its value was replaced. Requires slot inside.
  virtual void update(Slot slot, const Item& item) noexcept {
    (void)item;
    hit(slot);
  }
  // Chooses among those not pinned, takes the slot out and returns it; kNoSlot if all are pinned.
  // incoming: the item that is to be inserted in its place next, or nullptr.
  [[nodiscard]] virtual Slot evict(const Pins& pins, const Item* incoming) noexcept = 0;
  // A guess at the next two slots that evict() will return, for its owner to fetch from memory in
  // time; kNoSlot where that would cost more than it saves.
  struct Guess {
    Slot next = kNoSlot;
    Slot after = kNoSlot;
  };
  [[nodiscard]] virtual Guess next_victims() const noexcept { return {}; }
  // Takes the slot out and forgets it: it was deleted, or expired. Requires slot inside.
  virtual void remove(Slot slot) noexcept = 0;

  // How often the entry was used, being inserted included, as far as the policy counts that for
  // each; 1 where it does not. Requires slot inside.
  [[nodiscard]] virtual uint64_t uses(Slot slot) const noexcept {
    (void)slot;
    return 1;
  }

  // For blocks of prompts, from before the first insert on: the uses that follow, up to the next
  // call, belong to one request, whose last block has this hash; a block counts once a request.
  // Where nobody calls it every use is a request of its own. The first call may throw
  // std::bad_alloc.
  virtual void begin_request(uint64_t last) { (void)last; }
  // The child's block continues the parent's: whoever chooses victims takes the child first. Both
  // are inside, and the child has no parent yet. A parent that is removed before them lets its
  // children go on without one.
  virtual void link(Slot parent, Slot child) noexcept {
    (void)parent;
    (void)child;
  }

  // What it learned about itself; nothing if it does not watch itself. May throw std::bad_alloc.
  [[nodiscard]] virtual std::optional<PolicyReport> report() const { return std::nullopt; }
  // What it learned, to be restored after a restart: versioned and checksummed; empty if it does
  // not learn. May throw std::bad_alloc.
  [[nodiscard]] virtual std::vector<uint8_t> save() const { return {}; }
  // Returns what is wrong with the bytes, or nullptr if they were taken over. Changes nothing
  // unless they are whole.
  [[nodiscard]] virtual const char* restore(std::span<const uint8_t> bytes) noexcept {
    (void)bytes;
    return "this policy learns nothing";
  }

  // Memory of the bookkeeping in bytes.
  [[nodiscard]] virtual size_t memory_bytes() const noexcept = 0;
};

// Throws std::invalid_argument that lists the known names.
std::unique_ptr<Policy> make_policy(std::string_view name, const PolicyOptions& options = {});
std::span<const std::string_view> policy_names() noexcept;

}  // namespace blatam
