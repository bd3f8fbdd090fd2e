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
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/policy.h"
#include "core/table.h"

namespace blatam {

// Nanoseconds of any clock that never goes back; 0 as a deadline means "never".
using Nanoseconds = uint64_t;

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

struct Stats {
  uint64_t hits = 0;
  uint64_t misses = 0;
  uint64_t inserts = 0;
  uint64_t refused = 0;
  uint64_t removals[kReasons] = {};
  uint64_t entries = 0;
  uint64_t bytes = 0;
  uint64_t pinned = 0;

  Stats& operator+=(const Stats& other) noexcept {
    hits += other.hits;
    misses += other.misses;
    inserts += other.inserts;
    refused += other.refused;
    for (size_t i = 0; i < kReasons; ++i) removals[i] += other.removals[i];
    entries += other.entries;
    bytes += other.bytes;
    pinned += other.pinned;
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
    void add(Removed removed) noexcept {
      if (used_) {
        more_.push_back(std::move(removed));
      } else {
        first_ = std::move(removed);
        used_ = true;
      }
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
  };

  // Throws std::invalid_argument for an unknown policy.
  Shard(Limits limits, std::string_view policy)
      : limits_(limits), policy_name_(policy), policy_(make_policy(policy)) {}

  // match(const Key&) -> Match. May be called for keys that differ; must not touch the shard.
  template <class MatchKey>
  [[nodiscard]] Found find(uint64_t hash, MatchKey&& match) const {
    Found found;
    found.slot = table_.find(hash, [&](Slot slot) {
      const Entry& entry = entries_[slot];
      if (entry.hash != hash) return false;
      const Match answer = match(entry.key);
      if (answer == Match::kAsk) found.ask = &entry.key;
      return answer != Match::kNo;
    });
    if (found.ask != nullptr) found.slot = kNoSlot;
    return found;
  }

  [[nodiscard]] bool expired(Slot slot, Nanoseconds now) const noexcept {
    return !deadlines_.empty() && deadlines_[slot] != 0 && deadlines_[slot] <= now;
  }

  // True once any entry was given a deadline: only then does anyone need to read the clock.
  [[nodiscard]] bool has_deadlines() const noexcept { return !deadlines_.empty(); }

  // Requires a slot that find() gave and that is not expired. Counts the hit.
  const Value& hit(Slot slot) noexcept {
    ++stats_.hits;
    policy_->hit(slot);
    return entries_[slot].value;
  }
  void miss() noexcept { ++stats_.misses; }
  // The use of an entry without reading it.
  void touch(Slot slot) noexcept { policy_->hit(slot); }
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
    make_room(1, put.size, removals);
    const Slot slot = take_slot();
    entries_[slot].key = std::move(key);
    entries_[slot].value = std::move(value);
    entries_[slot].hash = hash;
    set_size(slot, put.size);
    if (!deadlines_.empty()) deadlines_[slot] = put.deadline;
    table_.insert(hash, slot);
    policy_->insert(slot);
    ++stats_.inserts;
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
      make_room(0, put.size > size(slot) ? put.size - size(slot) : 0, removals);
      removals.reserve(1);
    } catch (...) {
      unpin(slot);
      throw;
    }
    unpin(slot);
    removals.add({std::move(key), std::move(entries_[slot].value), Reason::kReplaced});
    ++stats_.removals[static_cast<size_t>(Reason::kReplaced)];
    entries_[slot].value = std::move(value);
    if (pins_.holds(slot)) pinned_bytes_ += put.size - size(slot);
    stats_.bytes -= size(slot);
    set_size(slot, put.size);
    if (!deadlines_.empty()) deadlines_[slot] = put.deadline;
    policy_->hit(slot);
    return PutResult::kReplaced;
  }

  // Takes the entry out, pinned or not.
  void remove(Slot slot, Reason reason, Removals& removals) {
    removals.reserve(1);
    Entry& entry = entries_[slot];
    removals.add({std::move(entry.key), std::move(entry.value), reason});
    ++stats_.removals[static_cast<size_t>(reason)];
    if (pins_.holds(slot)) pinned_bytes_ -= size(slot);
    pins_.forget(slot);
    policy_->remove(slot);
    table_.erase(entry.hash, slot);
    stats_.bytes -= size(slot);
    set_size(slot, 0);
    if (!deadlines_.empty()) deadlines_[slot] = 0;
    entry.value = Value();
    entry.hash = free_;
    free_ = slot;
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

  // Removes every entry whose deadline has passed. O(slots).
  void expire(Nanoseconds now, Removals& removals) {
    for (Slot slot = 0; slot < deadlines_.size(); ++slot) {
      if (expired(slot, now)) remove(slot, Reason::kExpired, removals);
    }
  }

  // Empties the shard; the policy forgets everything. Throws before it changes anything or not at
  // all. Statistics go on.
  void clear(Removals& removals) {
    Shard empty(limits_, policy_name_);
    removals.reserve(table_.size());
    std::vector<Entry> entries;
    entries.swap(entries_);
    stats_.removals[static_cast<size_t>(Reason::kCleared)] += table_.size();
    stats_.bytes = 0;
    table_ = std::move(empty.table_);
    policy_ = std::move(empty.policy_);
    sizes_.clear();
    deadlines_.clear();
    pins_ = Pins();
    pinned_bytes_ = 0;
    free_ = kNoSlot;
    hand_ = 0;
    for (Entry& entry : entries) {
      if (!entry.value) continue;
      removals.add({std::move(entry.key), std::move(entry.value), Reason::kCleared});
    }
  }

  // New limits; evicts down to them, pinned entries excepted.
  void resize(Limits limits, Removals& removals) {
    limits_ = limits;
    make_room(0, 0, removals);
  }

  [[nodiscard]] Limits limits() const noexcept { return limits_; }
  [[nodiscard]] size_t entries() const noexcept { return table_.size(); }
  [[nodiscard]] Stats stats() const noexcept {
    Stats stats = stats_;
    stats.entries = table_.size();
    stats.pinned = pins_.pinned();
    return stats;
  }
  // What the bookkeeping takes, keys' and values' own memory not included.
  [[nodiscard]] size_t memory_bytes() const noexcept {
    return table_.memory_bytes() + entries_.capacity() * sizeof(Entry) +
           sizes_.capacity() * sizeof(uint64_t) + deadlines_.capacity() * sizeof(Nanoseconds);
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
    uint64_t hash = kNoSlot;  // of a free slot: the next free one
  };

  // Slots looked at for a passed deadline on every insert: expired entries are gone within half as
  // many inserts as there are slots, for a constant price.
  static constexpr size_t kSweep = 2;

  [[nodiscard]] uint64_t size(Slot slot) const noexcept {
    return sizes_.empty() ? 0 : sizes_[slot];
  }

  void set_size(Slot slot, uint64_t size) noexcept {
    if (sizes_.empty()) return;
    sizes_[slot] = size;
    stats_.bytes += size;
  }

  PutResult refuse(PutResult why) noexcept {
    ++stats_.refused;
    return why;
  }

  // All that can fail for want of memory, before anything is evicted.
  void prepare(const Put& put, size_t more) {
    // A full cache frees a slot and a bucket before it takes one, so a bounded one never outgrows
    // its bound.
    const bool full = limits_.entries != 0 && table_.size() >= limits_.entries;
    if (full) more = 0;
    table_.reserve(table_.size() + more);
    if (more != 0 && free_ == kNoSlot && entries_.size() == entries_.capacity()) {
      size_t slots = std::max<size_t>(16, entries_.capacity() * 2);
      if (limits_.entries > entries_.size()) slots = std::min<size_t>(slots, limits_.entries);
      if (slots >= kNoSlot) throw std::bad_alloc();
      entries_.reserve(slots);
    }
    const size_t slots = entries_.capacity();
    policy_->grow(slots);
    if ((put.size != 0 || !sizes_.empty()) && sizes_.size() < slots) sizes_.resize(slots);
    if ((put.deadline != 0 || !deadlines_.empty()) && deadlines_.size() < slots) {
      deadlines_.resize(slots);
    }
  }

  // Evicts until `more` entries and `bytes` bytes fit, or nothing unpinned is left.
  void make_room(uint64_t more, uint64_t bytes, Removals& removals) {
    while ((limits_.entries != 0 && table_.size() + more > limits_.entries) ||
           (limits_.bytes != 0 && stats_.bytes + bytes > limits_.bytes)) {
      const Slot slot = policy_->victim(pins_);
      if (slot == kNoSlot) return;
      remove(slot, Reason::kCapacity, removals);
    }
  }

  void sweep(Nanoseconds now, Removals& removals) {
    if (deadlines_.empty()) return;
    for (size_t i = 0; i < kSweep; ++i) {
      if (hand_ >= entries_.size()) hand_ = 0;
      if (hand_ < entries_.size() && expired(hand_, now)) {
        remove(hand_, Reason::kExpired, removals);
      }
      ++hand_;
    }
  }

  [[nodiscard]] Slot take_slot() noexcept {
    if (free_ != kNoSlot) {
      const Slot slot = free_;
      free_ = static_cast<Slot>(entries_[slot].hash);
      return slot;
    }
    entries_.emplace_back();  // prepare() made room
    return static_cast<Slot>(entries_.size() - 1);
  }

  Limits limits_;
  std::string policy_name_;
  std::unique_ptr<Policy> policy_;
  Table table_;
  std::vector<Entry> entries_;
  std::vector<uint64_t> sizes_;         // empty until an entry has a size
  std::vector<Nanoseconds> deadlines_;  // empty until an entry has a deadline
  Pins pins_;
  uint64_t pinned_bytes_ = 0;
  Slot free_ = kNoSlot;
  Slot hand_ = 0;
  Stats stats_;
};

}  // namespace blatam
