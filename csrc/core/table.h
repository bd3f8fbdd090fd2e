// A Table finds the slot of a 64-bit hash: open addressing, linear probing, 8 bytes a bucket. It
// stores slot numbers only; whether a slot's key really is the one looked for is the caller's
// question. Not thread-safe.
//
// A bucket keeps the low half of the hash as a tag. The tag filters (two different keys share one
// about once in four thousand million) and also names the bucket's home, so growing and erasing
// never touch the entries themselves. Erasing shifts later buckets back instead of leaving
// tombstones, so a table that lives for years under eviction is as fast as a new one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/policy.h"

namespace blatam {

class Table {
 public:
  [[nodiscard]] size_t size() const noexcept { return size_; }

  // True if one more fits without allocating.
  [[nodiscard]] bool has_room() const noexcept { return size_ < room_; }

  // Makes room for `entries`; insert() up to that number then allocates nothing.
  void reserve(size_t entries) {
    if (entries <= room_) return;
    size_t wanted = kMinimum;
    while (wanted - wanted / 4 < entries) wanted *= 2;
    rehash(wanted);
  }

  void prefetch(uint64_t hash) const noexcept {
    __builtin_prefetch(buckets_.data() + (tag_of(hash) & mask_));
  }

  // Calls accept(slot) for each slot whose tag matches until it returns true; returns that slot, or
  // kNoSlot. accept must not change the table.
  template <class Accept>
  [[nodiscard]] Slot find(uint64_t hash, Accept&& accept) const {
    if (size_ == 0) return kNoSlot;
    const uint32_t tag = tag_of(hash);
    for (size_t i = tag & mask_; buckets_[i].slot != kNoSlot; i = (i + 1) & mask_) {
      if (buckets_[i].tag == tag && accept(buckets_[i].slot)) return buckets_[i].slot;
    }
    return kNoSlot;
  }

  // Requires reserve(size() + 1) and slot not inside.
  void insert(uint64_t hash, Slot slot) noexcept {
    place({tag_of(hash), slot});
    ++size_;
  }

  // Requires slot inside under this hash.
  void erase(uint64_t hash, Slot slot) noexcept {
    size_t hole = tag_of(hash) & mask_;
    while (buckets_[hole].slot != slot) hole = (hole + 1) & mask_;
    for (size_t i = (hole + 1) & mask_; buckets_[i].slot != kNoSlot; i = (i + 1) & mask_) {
      // A bucket may move back to the hole unless that would put it before its home.
      const size_t home = buckets_[i].tag & mask_;
      if (((i - home) & mask_) >= ((i - hole) & mask_)) {
        buckets_[hole] = buckets_[i];
        hole = i;
      }
    }
    buckets_[hole].slot = kNoSlot;
    --size_;
  }

  [[nodiscard]] size_t memory_bytes() const noexcept {
    return buckets_.capacity() * sizeof(Bucket);
  }

 private:
  static constexpr size_t kMinimum = 16;
  struct Bucket {
    uint32_t tag = 0;
    Slot slot = kNoSlot;
  };

  static uint32_t tag_of(uint64_t hash) noexcept { return static_cast<uint32_t>(hash); }

  void place(Bucket bucket) noexcept {
    size_t i = bucket.tag & mask_;
    while (buckets_[i].slot != kNoSlot) i = (i + 1) & mask_;
    buckets_[i] = bucket;
  }

  void rehash(size_t buckets) {
    std::vector<Bucket> old(buckets);
    old.swap(buckets_);
    mask_ = buckets - 1;
    room_ = buckets - buckets / 4;
    for (const Bucket& bucket : old) {
      if (bucket.slot != kNoSlot) place(bucket);
    }
  }

  std::vector<Bucket> buckets_;
  size_t mask_ = 0;
  size_t room_ = 0;  // entries before it grows
  size_t size_ = 0;
};

}  // namespace blatam
