// A Shard is one lock's worth of cache: a table, a policy, a budget of entries and bytes, time to
// live, and pins. It takes no lock and reads no clock: its owner serialises the calls and passes
// the time in. It never compares keys itself and never releases one: the caller passes the
// comparison, and every key and value that leaves is handed back, to be dropped when the owner's
// lock is free.
//
// The calls come in two steps, because comparing two keys may be slow, or run code that comes back
// to this very cache: find() gives a slot, or names a key that the caller must compare outside the
// lock before it asks again; the slot then serves hit(), replace(), remove(), pin() until the next
// call that changes the shard.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/expiry.h"
#include "core/policy.h"
#include "core/table.h"

namespace blatam {

enum class Match : uint8_t { kNo, kYes, kAsk };

// Why an entry left.
enum class Reason : uint8_t { kCapacity, kExpired, kReplaced, kDeleted, kCleared };
inline constexpr size_t kReasons = 5;
inline constexpr std::string_view kReasonNames[kReasons] = {"capacity", "expired", "replaced",
                                                            "deleted", "cleared"};

// What became of a put. Only the first two stored anything; the others changed nothing at all.
enum class PutResult : uint8_t {
  kInserted,
  kReplaced,
  kTooLarge,  // the value alone exceeds the budget of bytes
  kPinned,    // what is pinned leaves no room
};

// 0 means unlimited.
struct Limits {
  uint64_t entries = 0;
  uint64_t bytes = 0;
};

struct ShardOptions {
  Limits limits{};
  std::string_view policy = "lru";
  PolicyOptions policy_options{};
  Nanoseconds idle = 0;  // an entry not used for so long expires; 0: never
};

struct Stats {
  uint64_t hits = 0;
  uint64_t misses = 0;
  uint64_t inserts = 0;
  uint64_t refused = 0;
  uint64_t removals[kReasons] = {};
  uint64_t entries = 0;
  uint64_t bytes = 0;
  uint64_t pinned = 0;
  uint64_t pinned_bytes = 0;

  Stats& operator+=(const Stats& other) noexcept {
    hits += other.hits;
    misses += other.misses;
    inserts += other.inserts;
    refused += other.refused;
    for (size_t i = 0; i < kReasons; ++i) removals[i] += other.removals[i];
    entries += other.entries;
    bytes += other.bytes;
    pinned += other.pinned;
    pinned_bytes += other.pinned_bytes;
    return *this;
  }
};

// Key and Value: default-constructible, nothrow movable; a Value converts to false exactly when it
// is empty, which a stored one never is.
template <class Key, class Value>
class Shard {
 public:
  struct Removed {
    Key key;
    Value value;
    Reason reason;
  };

  // What left during one call. One entry is held inline: a put that evicts one allocates nothing.
  class Removals {
   public:
    Removals() = default;
    Removals(const Removals&) = delete;
    Removals& operator=(const Removals&) = delete;
    [[nodiscard]] bool empty() const noexcept { return !used_; }
    // May throw; as many add() after it do not.
    void reserve(size_t more) {
      const size_t wanted = more_.size() + more;
      if ((used_ || more > 1) && wanted > more_.capacity()) more_.reserve(wanted * 2);
    }
    void add(Key& key, Value& value, Reason reason) noexcept {
      if (used_) {
        more_.push_back({std::move(key), std::move(value), reason});
        return;
      }
      first_.key = std::move(key);
      first_.value = std::move(value);
      first_.reason = reason;
      used_ = true;
    }
    template <class F>
    void for_each(F&& f) {
      if (!used_) return;
      f(first_);
      for (Removed& removed : more_) f(removed);
    }

   private:
    bool used_ = false;
    Removed first_{};
    std::vector<Removed> more_;
  };

  // Either a slot, or a key to compare outside the lock (ask), or neither: not here.
  struct Found {
    Slot slot = kNoSlot;
    const Key* ask = nullptr;
  };

  struct Put {
    uint64_t size = 0;  // bytes
    Nanoseconds deadline = 0;
    Nanoseconds now = 0;
    double cost = 1;
  };

  // Throws std::invalid_argument for an unknown policy.
  explicit Shard(const ShardOptions& options)
      : limits_(options.limits),
        policy_name_(options.policy),
        policy_options_(options.policy_options),
        idle_(options.idle),
        policy_(make_policy(options.policy, options.policy_options)) {
    tell_limits();
  }

  // Ahead of find(), by as much as memory takes to answer.
  void prefetch(uint64_t hash) const noexcept { table_.prefetch(hash); }

  // match(const Key&, const uint64_t& its_hash) -> Match. Called for keys whose hash resembles this
  // one; the whole hash lies elsewhere in memory, so reading it is left to who needs it. Must not
  // touch the shard.
  template <class MatchKey>
  [[nodiscard]] Found find(uint64_t hash, MatchKey&& match) const {
    Found found;
    found.slot = table_.find(hash, [&](Slot slot) {
      const Key& key = entries_[slot].key;
      const Match answer = match(key, hashes_[slot]);
      if (answer == Match::kAsk) found.ask = &key;
      return answer != Match::kNo;
    });
    if (found.ask != nullptr) found.slot = kNoSlot;
    return found;
  }

  [[nodiscard]] bool expired(Slot slot, Nanoseconds now) const noexcept {
    return expiry_ != nullptr && expiry_->passed(slot, now);
  }

  // Requires a slot that find() gave and that is not expired. Counts the hit.
  const Value& hit(Slot slot, Nanoseconds now) noexcept {
    ++stats_.hits;
    touch(slot, now);
    return entries_[slot].value;
  }
  void miss() noexcept { ++stats_.misses; }
  // The use of an entry without reading it.
  void touch(Slot slot, Nanoseconds now) noexcept {
    policy_->hit(slot);
    if (idle_ != 0) expiry_->set(slot, earlier(hard_deadlines_[slot], now + idle_));
  }
  [[nodiscard]] const Value& value(Slot slot) const noexcept { return entries_[slot].value; }

  // Stores a value under a key that find() did not find. On a refusal the caller keeps key and
  // value. If memory runs out it throws std::bad_alloc, with what it evicted so far in `removals`.
  [[nodiscard]] PutResult insert(uint64_t hash, Key& key, Value& value, const Put& put,
                                 Removals& removals) {
    if (limits_.bytes != 0 && put.size > limits_.bytes) return refuse(PutResult::kTooLarge);
    const bool room = (limits_.entries == 0 || pins_.pinned() < limits_.entries) &&
                      (limits_.bytes == 0 || pinned_bytes_ + put.size <= limits_.bytes);
    if (!room) return refuse(PutResult::kPinned);
    prepare(put, 1);
    sweep(put.now, removals);
    const Item item{hash, put.size, put.cost};
    const bool full = limits_.entries != 0 && table_.size() >= limits_.entries;
    make_room(1, put.size, &item, removals);
    const Slot slot = take_slot();
    entries_[slot].key = std::move(key);
    entries_[slot].value = std::move(value);
    hashes_[slot] = hash;
    set_size(slot, put.size);
    set_cost(slot, put.cost);
    set_deadline(slot, put);
    table_.insert(hash, slot);
    policy_->insert(slot, item);
    ++stats_.inserts;
    if (full) prefetch_victims();
    return PutResult::kInserted;
  }

  // Gives the entry in a slot that find() gave a new value, size and deadline; the old value leaves
  // through `removals`, with `key`. Counts as a use.
  [[nodiscard]] PutResult replace(Slot slot, Key& key, Value& value, const Put& put,
                                  Removals& removals) {
    if (limits_.bytes != 0 && put.size > limits_.bytes) return refuse(PutResult::kTooLarge);
    const uint64_t others = pinned_bytes_ - (pins_.holds(slot) ? size(slot) : 0);
    if (limits_.bytes != 0 && others + put.size > limits_.bytes) return refuse(PutResult::kPinned);
    prepare(put, 0);
    // Pinned while the others make room for it.
    pin(slot);
    try {
      make_room(0, put.size > size(slot) ? put.size - size(slot) : 0, nullptr, removals);
      removals.reserve(1);
    } catch (...) {
      unpin(slot);
      throw;
    }
    unpin(slot);
    removals.add(key, entries_[slot].value, Reason::kReplaced);
    ++stats_.removals[static_cast<size_t>(Reason::kReplaced)];
    entries_[slot].value = std::move(value);
    if (pins_.holds(slot)) pinned_bytes_ += put.size - size(slot);
    stats_.bytes -= size(slot);
    set_size(slot, put.size);
    set_cost(slot, put.cost);
    set_deadline(slot, put);
    policy_->update(slot, {hashes_[slot], put.size, put.cost});
    return PutResult::kReplaced;
  }

  // Takes the entry out, pinned or not.
  void remove(Slot slot, Reason reason, Removals& removals) {
    removals.reserve(1);
    policy_->remove(slot);
    release(slot, reason, removals);
  }

  // Pins nest. A pinned entry is never evicted for room; it can still expire, be replaced, deleted
  // or cleared. May throw std::bad_alloc.
  void pin(Slot slot) {
    if (pins_.pin(slot)) pinned_bytes_ += size(slot);
  }
  // Returns false if it was not pinned.
  bool unpin(Slot slot) noexcept {
    if (!pins_.holds(slot)) return false;
    if (pins_.unpin(slot)) pinned_bytes_ -= size(slot);
    return true;
  }

  [[nodiscard]] bool pinned(Slot slot) const noexcept { return pins_.holds(slot); }

  // For blocks of prompts, and what the policy learned: as Policy's calls of these names.
  void begin_request(uint64_t last) {
    policy_->begin_request(last);
    prompts_ = true;
  }
  void link(Slot parent, Slot child) noexcept { policy_->link(parent, child); }
  [[nodiscard]] std::optional<PolicyReport> report() const { return policy_->report(); }
  [[nodiscard]] std::vector<uint8_t> save_policy() const { return policy_->save(); }
  [[nodiscard]] const char* restore_policy(std::span<const uint8_t> bytes) noexcept {
    return policy_->restore(bytes);
  }

  [[nodiscard]] const Key& key(Slot slot) const noexcept { return entries_[slot].key; }
  // Whether a slot that find() gave some calls ago still holds a key for which same(key).
  template <class Same>
  [[nodiscard]] bool still_holds(Slot slot, Same&& same) const {
    return slot < entries_.size() && entries_[slot].value && same(entries_[slot].key);
  }

  // Removes every entry whose deadline has passed. O(slots).
  void expire(Nanoseconds now, Removals& removals) {
    if (expiry_ == nullptr) return;
    for (Slot slot = 0; slot < entries_.size(); ++slot) {
      if (expired(slot, now)) remove(slot, Reason::kExpired, removals);
    }
  }

  // Empties the shard; the policy forgets everything. Throws before it changes anything or not at
  // all. Statistics go on.
  void clear(Removals& removals) {
    Shard empty({limits_, policy_name_, policy_options_, idle_});
    removals.reserve(table_.size());
    std::vector<Entry> entries;
    entries.swap(entries_);
    stats_.removals[static_cast<size_t>(Reason::kCleared)] += table_.size();
    stats_.bytes = 0;
    table_ = std::move(empty.table_);
    policy_ = std::move(empty.policy_);
    told_capacity_ = empty.told_capacity_;
    prompts_ = false;
    hashes_.clear();
    sizes_.clear();
    costs_.clear();
    expiry_.reset();
    hard_deadlines_.clear();
    pins_ = Pins();
    pinned_bytes_ = 0;
    free_ = kNoSlot;
    for (Entry& entry : entries) {
      if (!entry.value) continue;
      removals.add(entry.key, entry.value, Reason::kCleared);
    }
  }

  // New limits; evicts down to them, pinned entries excepted.
  void resize(Limits limits, Removals& removals) {
    limits_ = limits;
    tell_limits();
    make_room(0, 0, nullptr, removals);
  }

  // Another policy from here on. What the old one would evict first is the oldest of the new one,
  // with the uses that were counted, up to kMostUses; nothing leaves, and pins, sizes, costs and
  // deadlines stay. The new one learns nothing from being told of all this. O(entries).
  //
  // Throws before it changes anything: std::invalid_argument for an unknown policy or options, and
  // for blocks of prompts, whose chains only the policy knows; std::bad_alloc.
  void change_policy(std::string_view name, const PolicyOptions& options) {
    if (prompts_) throw std::invalid_argument("the policy of blocks of prompts cannot be changed");
    std::string kept_name(name);
    std::unique_ptr<Policy> fresh = make_policy(name, options);
    if (entries_.capacity() != 0) fresh->grow(entries_.capacity());
    const std::vector<uint8_t> nothing_learned = fresh->save();
    std::vector<uint8_t> uses(entries_.size());
    for_each_slot([&](Slot slot, const Key&) {
      uses[slot] = static_cast<uint8_t>(std::min<uint64_t>(policy_->uses(slot), kMostUses));
    });

    policy_.swap(fresh);
    Policy& old = *fresh;
    policy_name_ = std::move(kept_name);
    policy_options_ = options;
    told_capacity_ = 0;
    tell_limits();
    if (limits_.entries == 0 && table_.size() != 0) old.set_capacity(table_.size());
    for (size_t left = table_.size(); left != 0; --left) {
      const Slot slot = old.evict(Pins(), nullptr);
      policy_->insert(slot, {hashes_[slot], size(slot), cost(slot)});
      while (uses[slot]-- > 1) policy_->hit(slot);
    }
    if (!nothing_learned.empty()) (void)policy_->restore(nothing_learned);
  }

  [[nodiscard]] Limits limits() const noexcept { return limits_; }
  [[nodiscard]] size_t entries() const noexcept { return table_.size(); }
  [[nodiscard]] Stats stats() const noexcept {
    Stats stats = stats_;
    stats.entries = table_.size();
    stats.pinned = pins_.pinned();
    stats.pinned_bytes = pinned_bytes_;
    return stats;
  }
  // What the bookkeeping takes, keys' and values' own memory not included.
  [[nodiscard]] size_t memory_bytes() const noexcept {
    return table_.memory_bytes() + policy_->memory_bytes() + entries_.capacity() * sizeof(Entry) +
           hashes_.capacity() * sizeof(uint64_t) + sizes_.capacity() * sizeof(uint64_t) +
           costs_.capacity() * sizeof(double) + hard_deadlines_.capacity() * sizeof(Nanoseconds) +
           (expiry_ == nullptr ? 0 : expiry_->memory_bytes());
  }

  // f(key, value) for every entry, in slot order.
  template <class F>
  void for_each(F&& f) const {
    for (const Entry& entry : entries_) {
      if (entry.value) f(entry.key, entry.value);
    }
  }
  // The same with the slot, for a caller that wants to know which have expired.
  template <class F>
  void for_each_slot(F&& f) const {
    for (size_t slot = 0; slot < entries_.size(); ++slot) {
      if (entries_[slot].value) f(static_cast<Slot>(slot), entries_[slot].key);
    }
  }

 private:
  struct Entry {
    Key key{};
    Value value{};
  };

  // Steps an insert takes to reclaim what has expired. An entry needs at most one for each level of
  // the wheel, so inserts keep up with what they bring, and none waits for a whole wave to go.
  static constexpr unsigned kSweep = 16;

  // More are no more a reason to keep an entry, and each is told to a new policy one by one.
  static constexpr uint64_t kMostUses = 16;

  static Nanoseconds earlier(Nanoseconds a, Nanoseconds b) noexcept {
    return a == 0 || b == 0 ? a | b : std::min(a, b);
  }

  void set_deadline(Slot slot, const Put& put) noexcept {
    if (expiry_ == nullptr) return;
    if (idle_ == 0) {
      expiry_->set(slot, put.deadline);
    } else {
      hard_deadlines_[slot] = put.deadline;
      expiry_->set(slot, earlier(put.deadline, put.now + idle_));
    }
  }

  void tell_limits() noexcept {
    policy_->set_capacity_bytes(limits_.bytes);
    tell_capacity(limits_.entries);
  }
  // 0: not limited.
  void tell_capacity(uint64_t entries) noexcept {
    if (entries == told_capacity_) return;
    told_capacity_ = entries;
    policy_->set_capacity(entries == 0 ? Policy::kUnbounded : entries);
  }

  [[nodiscard]] uint64_t size(Slot slot) const noexcept {
    return sizes_.empty() ? 0 : sizes_[slot];
  }

  void set_size(Slot slot, uint64_t size) noexcept {
    if (sizes_.empty()) return;
    sizes_[slot] = size;
    stats_.bytes += size;
  }

  [[nodiscard]] double cost(Slot slot) const noexcept { return costs_.empty() ? 1 : costs_[slot]; }

  void set_cost(Slot slot, double cost) noexcept {
    if (!costs_.empty()) costs_[slot] = cost;
  }

  PutResult refuse(PutResult why) noexcept {
    ++stats_.refused;
    return why;
  }

  // All that can fail for want of memory, before anything is evicted. The table and every column
  // that exists have as many places as entries_ has capacity.
  void prepare(const Put& put, size_t more) {
    // A full cache frees a slot and a bucket before it takes one, so a bounded one never outgrows
    // its bound.
    if (limits_.entries != 0 && table_.size() >= limits_.entries) more = 0;
    const bool place = more == 0 || free_ != kNoSlot || entries_.size() < entries_.capacity();
    const bool columns = (put.size == 0 || !sizes_.empty()) && (put.cost == 1 || !costs_.empty()) &&
                         ((put.deadline == 0 && idle_ == 0) || expiry_ != nullptr);
    if (place && columns) [[likely]]
      return;
    grow(put, more);
  }

  void grow(const Put& put, size_t more) {
    if (more != 0 && free_ == kNoSlot && entries_.size() == entries_.capacity()) {
      size_t slots = std::max<size_t>(16, entries_.capacity() * 2);
      if (limits_.entries > entries_.size()) slots = std::min<size_t>(slots, limits_.entries);
      if (slots >= kNoSlot) throw std::bad_alloc();
      // Entries last: if one of the others fails, they still promise no more than all of them hold.
      table_.reserve(slots, [&](Slot slot) { return hashes_[slot]; });
      hashes_.resize(slots);
      grow_columns(put, slots);
      entries_.reserve(slots);
    } else {
      grow_columns(put, entries_.capacity());
    }
  }

  void grow_columns(const Put& put, size_t slots) {
    policy_->grow(slots);
    if ((put.size != 0 || !sizes_.empty()) && sizes_.size() < slots) sizes_.resize(slots);
    if ((put.cost != 1 || !costs_.empty()) && costs_.size() < slots) costs_.resize(slots, 1);
    if (put.deadline != 0 || idle_ != 0 || expiry_ != nullptr) {
      if (expiry_ == nullptr) {
        auto expiry = std::make_unique<Expiry>(put.now);
        expiry->grow(slots);
        if (idle_ != 0) hard_deadlines_.resize(slots);
        expiry_ = std::move(expiry);
      }
      expiry_->grow(slots);
      if (idle_ != 0 && hard_deadlines_.size() < slots) hard_deadlines_.resize(slots);
    }
  }

  // Evicts until `more` entries and `bytes` bytes fit, or nothing unpinned is left.
  void make_room(uint64_t more, uint64_t bytes, const Item* incoming, Removals& removals) {
    for (;;) {
      const bool entries = limits_.entries != 0 && table_.size() + more > limits_.entries;
      if (!entries && (limits_.bytes == 0 || stats_.bytes + bytes <= limits_.bytes)) return;
      tell_capacity(entries ? limits_.entries : table_.size());
      removals.reserve(1);
      const Slot slot = policy_->evict(pins_, incoming);
      if (slot == kNoSlot) return;
      release(slot, Reason::kCapacity, removals);
    }
  }

  // The next insert will evict: what it touches then is on its way meanwhile.
  void prefetch_victims() const noexcept {
    const Policy::Guess victims = policy_->next_victims();
    if (victims.after != kNoSlot) {
      __builtin_prefetch(&entries_[victims.after]);
      __builtin_prefetch(&hashes_[victims.after]);
    }
    if (victims.next == kNoSlot) return;
    const Entry& entry = entries_[victims.next];
    table_.prefetch(hashes_[victims.next]);
    if constexpr (requires { entry.key.prefetch(); }) entry.key.prefetch();
    if constexpr (requires { entry.value.prefetch(); }) entry.value.prefetch();
  }

  // Before eviction, so that what has expired leaves before anything that has not.
  void sweep(Nanoseconds now, Removals& removals) {
    if (expiry_ == nullptr) return;
    unsigned budget = kSweep;
    for (;;) {
      const Slot slot = expiry_->due(now, budget);
      if (slot == kNoSlot) return;
      remove(slot, Reason::kExpired, removals);
    }
  }

  // The slot has left its policy; the rest follows. Requires removals.reserve(1).
  void release(Slot slot, Reason reason, Removals& removals) noexcept {
    Entry& entry = entries_[slot];
    removals.add(entry.key, entry.value, reason);
    ++stats_.removals[static_cast<size_t>(reason)];
    if (pins_.holds(slot)) pinned_bytes_ -= size(slot);
    pins_.forget(slot);
    table_.erase(hashes_[slot], slot);
    stats_.bytes -= size(slot);
    set_size(slot, 0);
    if (expiry_ != nullptr) expiry_->set(slot, 0);
    entry.value = Value();
    hashes_[slot] = free_;
    free_ = slot;
  }

  [[nodiscard]] Slot take_slot() noexcept {
    if (free_ != kNoSlot) {
      const Slot slot = free_;
      free_ = static_cast<Slot>(hashes_[slot]);
      return slot;
    }
    entries_.emplace_back();  // prepare() made room
    return static_cast<Slot>(entries_.size() - 1);
  }

  Limits limits_;
  std::string policy_name_;
  PolicyOptions policy_options_;
  Nanoseconds idle_;
  std::unique_ptr<Policy> policy_;
  uint64_t told_capacity_ = 0;
  Table table_;
  std::vector<Entry> entries_;
  std::vector<uint64_t> hashes_;             // of a free slot: the next free one
  std::vector<uint64_t> sizes_;              // empty until an entry has a size
  std::vector<double> costs_;                // empty until one has a cost other than 1
  std::unique_ptr<Expiry> expiry_;           // nullptr until an entry has a deadline
  std::vector<Nanoseconds> hard_deadlines_;  // with idle_: those that no use extends
  Pins pins_;
  uint64_t pinned_bytes_ = 0;
  bool prompts_ = false;  // begin_request() is called
  Slot free_ = kNoSlot;
  Stats stats_;
};

}  // namespace blatam
