// Least frequently used, exact, every operation O(1) (Shah, Mitra, Matani 2010): entries of equal
// count share a bucket, buckets form a list in order of count, a hit moves an entry to the next
// bucket. A count starts at 1 and is forgotten at eviction; among equal counts the least recently
// used leaves first.
//
// A bucket holds at least one entry, so there are never more buckets than slots: they are allocated
// with the slots, and a hit allocates nothing.
#pragma once

#include <vector>

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

}  // namespace blatam
