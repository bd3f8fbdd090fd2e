// Least frequently used, exact, every operation O(1) (Shah, Mitra, Matani 2010): entries of equal
// count share a bucket, buckets form a list in order of count, a hit moves an entry to the next
// bucket. A count starts at 1 and is forgotten at eviction; among equal counts the least recently
// used leaves first.
//
// A bucket holds at least one entry, so there are never more buckets than slots: they are allocated
// with the slots, and a hit allocates nothing.
//
// With decay below 1 (FadingLfu), every count is multiplied by it each time as many requests have
// come as there are entries; a use adds 1 as ever. Nothing is touched for that: an entry keeps its
// count as of its last use, and the order of two of them never changes between uses. Counts, cut to
// seven significant bits, are the classes of RankQueues, and their logarithm plus the fading
// avoided since the beginning is the rank. What is told apart ends at 2^32.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "core/rank_queues.h"
#include "core/slot_list.h"

namespace blatam {

class Lfu final : public Policy {
 public:
  void grow(size_t slots) override {
    links_.grow(slots);
    if (slots > bucket_of_.size()) bucket_of_.resize(slots);
    // One more than slots: a hit makes the next bucket before it leaves the old one.
    if (slots + 1 > buckets_.size()) {
      const auto old = static_cast<BucketId>(buckets_.size());
      buckets_.resize(slots + 1);
      for (auto id = static_cast<BucketId>(buckets_.size()); id-- > old;) release(id);
    }
  }

  void insert(Slot slot, const Item&) noexcept override {
    BucketId first = lowest_;
    if (first == kNone || buckets_[first].count != 1) first = make_after(kNone, 1);
    enter(first, slot);
  }

  void hit(Slot slot) noexcept override {
    const BucketId from = bucket_of_[slot];
    const uint64_t count = buckets_[from].count + 1;
    BucketId to = buckets_[from].higher;
    if (to == kNone || buckets_[to].count != count) to = make_after(from, count);
    leave(from, slot);
    enter(to, slot);
  }

  [[nodiscard]] Slot evict(const Pins& pins, const Item*) noexcept override {
    for (BucketId id = lowest_; id != kNone; id = buckets_[id].higher) {
      const Slot slot = links_.oldest_unpinned(buckets_[id].list, pins);
      if (slot == kNoSlot) continue;
      leave(id, slot);
      return slot;
    }
    return kNoSlot;
  }

  void remove(Slot slot) noexcept override { leave(bucket_of_[slot], slot); }
  [[nodiscard]] uint64_t uses(Slot slot) const noexcept override {
    return buckets_[bucket_of_[slot]].count;
  }
  [[nodiscard]] size_t memory_bytes() const noexcept override {
    return links_.memory_bytes() + bucket_of_.capacity() * sizeof(BucketId) +
           buckets_.capacity() * sizeof(Bucket);
  }

 private:
  using BucketId = uint32_t;
  static constexpr BucketId kNone = 0xFFFFFFFF;
  struct Bucket {
    uint64_t count = 0;
    SlotList list;
    BucketId lower = kNone;
    BucketId higher = kNone;  // of a free bucket: the next free one
  };

  void release(BucketId id) noexcept {
    buckets_[id].higher = free_;
    free_ = id;
  }

  // kNone: before all others.
  BucketId make_after(BucketId lower, uint64_t count) noexcept {
    const BucketId id = free_;
    free_ = buckets_[id].higher;
    const BucketId higher = lower == kNone ? lowest_ : buckets_[lower].higher;
    buckets_[id] = {count, {}, lower, higher};
    (lower == kNone ? lowest_ : buckets_[lower].higher) = id;
    if (higher != kNone) buckets_[higher].lower = id;
    return id;
  }

  void enter(BucketId id, Slot slot) noexcept {
    links_.push_newest(buckets_[id].list, slot);
    bucket_of_[slot] = id;
  }

  void leave(BucketId id, Slot slot) noexcept {
    Bucket& bucket = buckets_[id];
    links_.unlink(bucket.list, slot);
    if (!bucket.list.empty()) return;
    (bucket.lower == kNone ? lowest_ : buckets_[bucket.lower].higher) = bucket.higher;
    if (bucket.higher != kNone) buckets_[bucket.higher].lower = bucket.lower;
    release(id);
  }

  SlotLinks links_;
  std::vector<BucketId> bucket_of_;
  std::vector<Bucket> buckets_;
  BucketId lowest_ = kNone;
  BucketId free_ = kNone;
};

class FadingLfu final : public Policy {
 public:
  explicit FadingLfu(double decay)
      : decay_(decay), fade_(fixed(-std::log2(decay))), levels_(kClasses) {
    for (uint64_t i = 0; i < kClasses; ++i) {
      levels_[i] = fixed(std::log2(uncut(kLowest + i, kBits)));
    }
  }

  void grow(size_t slots) override {
    queues_.grow(slots);
    if (slots > uses_.size()) uses_.resize(slots);
  }

  void insert(Slot slot, const Item&) noexcept override {
    ++size_;
    fade();
    enter(slot, 1);
  }
  void hit(Slot slot) noexcept override {
    fade();
    queues_.remove(slot);
    enter(slot, faded(uses_[slot]) + 1);
  }
  [[nodiscard]] Slot evict(const Pins& pins, const Item*) noexcept override {
    const Slot slot = queues_.lowest(pins);
    if (slot != kNoSlot) remove(slot);
    return slot;
  }
  [[nodiscard]] Guess next_victims() const noexcept override { return queues_.next(); }
  void remove(Slot slot) noexcept override {
    queues_.remove(slot);
    --size_;
  }
  [[nodiscard]] uint64_t uses(Slot slot) const noexcept override {
    return std::max<uint64_t>(1, static_cast<uint64_t>(faded(uses_[slot])));
  }
  [[nodiscard]] size_t memory_bytes() const noexcept override {
    return queues_.memory_bytes() + uses_.capacity() * sizeof(Uses) +
           levels_.capacity() * sizeof(uint64_t);
  }

 private:
  struct Uses {
    double count = 0;
    uint64_t age = 0;  // when that was the count
  };

  static constexpr unsigned kBits = 6;  // and the leading one
  static constexpr uint64_t kLowest = cut(1, kBits);
  static constexpr uint16_t kClasses = static_cast<uint16_t>(cut(0x1p32, kBits) - kLowest);
  static uint64_t fixed(double value) noexcept { return static_cast<uint64_t>(value * 0x1p32); }

  [[nodiscard]] double faded(const Uses& uses) const noexcept {
    return uses.count * std::pow(decay_, static_cast<double>(age_ - uses.age));
  }

  void fade() noexcept {
    if (++requests_ < size_) return;
    requests_ = 0;
    ++age_;
  }

  void enter(Slot slot, double count) noexcept {
    uses_[slot] = {count, age_};
    const uint64_t where = std::min<uint64_t>(cut(count, kBits) - kLowest, kClasses - 1);
    queues_.push(static_cast<uint16_t>(where), slot, levels_[where] + age_ * fade_);
  }

  double decay_;
  uint64_t fade_;                 // binary logarithm of what all uses lose at a time, in 2^-32
  std::vector<uint64_t> levels_;  // the same of the count of a class
  RankQueues<uint64_t> queues_{kClasses};
  std::vector<Uses> uses_;
  size_t size_ = 0;
  size_t requests_ = 0;  // since all counts faded
  uint64_t age_ = 0;     // how often they did
};

}  // namespace blatam
