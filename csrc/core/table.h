// A Table finds the slot of a 64-bit hash. It stores slot numbers only; whether a slot's key really
// is the one looked for is the caller's question. Not thread-safe.
//
// A bucket is one cache line: twelve slots, for each a byte of the hash as its tag, and how many
// entries went on to the next bucket because this one was full when they came. A lookup compares
// all tags of a bucket at once and reads a second line only where that count is not zero, so most
// cost one line from memory, hit or miss. Erasing counts down along the way it once counted up and
// leaves no tombstones: a table that lives for years under eviction is as fast as a new one. (The
// idea of counting what overflowed is F14's: Bronson and Shi 2019.)
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "core/policy.h"

namespace blatam {

class Table {
 public:
  [[nodiscard]] size_t size() const noexcept { return size_; }

  // How many fit without allocating.
  [[nodiscard]] size_t room() const noexcept { return buckets_.size() * kPerBucket; }

  // Makes room for `entries`, no more; insert() up to that number then allocates nothing. 8 bytes
  // an entry. hash_of(slot) -> uint64_t gives the hash of each slot that is inside.
  template <class HashOf>
  void reserve(size_t entries, HashOf&& hash_of) {
    if (entries <= room()) return;
    Table larger((entries + kPerBucket - 1) / kPerBucket);
    for (const Bucket& bucket : buckets_) {
      for (uint32_t used = ~bucket.matching(kFree) & kAll; used != 0; used &= used - 1) {
        const Slot slot = bucket.slots[std::countr_zero(used)];
        larger.insert(hash_of(slot), slot);
      }
    }
    *this = std::move(larger);
  }

  void prefetch(uint64_t hash) const noexcept { __builtin_prefetch(buckets_.data() + home(hash)); }

  // Calls accept(slot) for each slot whose tag matches until it returns true; returns that slot, or
  // kNoSlot. accept must not change the table.
  template <class Accept>
  [[nodiscard]] Slot find(uint64_t hash, Accept&& accept) const {
    if (size_ == 0) return kNoSlot;
    const uint8_t tag = tag_of(hash);
    size_t i = home(hash);
    // Every bucket at most once: of two keys that only differ, each may have passed the other's.
    for (size_t left = buckets_.size(); left != 0; --left) {
      const Bucket& bucket = buckets_[i];
      for (uint32_t match = bucket.matching(tag); match != 0; match &= match - 1) {
        const Slot slot = bucket.slots[std::countr_zero(match)];
        if (accept(slot)) return slot;
      }
      if (bucket.passed == 0) [[likely]]
        break;
      i = after(i);
    }
    return kNoSlot;
  }

  // Requires size() < room() and slot not inside.
  void insert(uint64_t hash, Slot slot) noexcept {
    size_t i = home(hash);
    uint32_t free;
    while ((free = buckets_[i].matching(kFree)) == 0) {
      ++buckets_[i].passed;
      i = after(i);
    }
    const int place = std::countr_zero(free);
    buckets_[i].tags[place] = tag_of(hash);
    buckets_[i].slots[place] = slot;
    ++size_;
  }

  // Requires slot inside under this hash.
  void erase(uint64_t hash, Slot slot) noexcept {
    const uint8_t tag = tag_of(hash);
    for (size_t i = home(hash);; i = after(i)) {
      Bucket& bucket = buckets_[i];
      for (uint32_t match = bucket.matching(tag); match != 0; match &= match - 1) {
        const int place = std::countr_zero(match);
        if (bucket.slots[place] != slot) continue;
        bucket.tags[place] = kFree;
        --size_;
        return;
      }
      --bucket.passed;
    }
  }

  [[nodiscard]] size_t memory_bytes() const noexcept {
    return buckets_.capacity() * sizeof(Bucket);
  }

  Table() = default;

 private:
  // Of twelve places, so that with a good hash 1 entry in 80 is not in its home.
  static constexpr size_t kPerBucket = 8;
  static constexpr uint8_t kFree = 0;
  static constexpr uint32_t kAll = 0xFFF;

  struct alignas(64) Bucket {
    uint8_t tags[12] = {};
    uint32_t passed = 0;
    Slot slots[12];

    // Bit j: the tag of place j is this one.
    [[nodiscard]] uint32_t matching(uint8_t tag) const noexcept {
#if defined(__SSE2__)
      const __m128i first = _mm_load_si128(reinterpret_cast<const __m128i*>(this));
      const __m128i equal = _mm_cmpeq_epi8(first, _mm_set1_epi8(static_cast<char>(tag)));
      return static_cast<uint32_t>(_mm_movemask_epi8(equal)) & kAll;
#else
      uint32_t mask = 0;
      for (uint32_t j = 0; j < 12; ++j) mask |= static_cast<uint32_t>(tags[j] == tag) << j;
      return mask;
#endif
    }
  };
  static_assert(sizeof(Bucket) == 64);

  explicit Table(size_t buckets) : buckets_(buckets) {}

  // The home comes from the low half of the hash, the tag from its top.
  [[nodiscard]] size_t home(uint64_t hash) const noexcept {
    return (hash & 0xFFFFFFFF) * buckets_.size() >> 32;
  }
  static uint8_t tag_of(uint64_t hash) noexcept {
    return static_cast<uint8_t>(std::max<uint64_t>(hash >> 56, 1));
  }
  [[nodiscard]] size_t after(size_t i) const noexcept {
    return i + 1 == buckets_.size() ? 0 : i + 1;
  }

  std::vector<Bucket> buckets_;
  size_t size_ = 0;
};

}  // namespace blatam
