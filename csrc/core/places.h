// Places: where in a disk tier's segments the last record of each key lies. Every call is safe from
// any thread and waits for nothing but the others; nothing here touches a file.
//
// An entry is 48 bytes, in chunks that never move, and its part of the table: 60 bytes at most,
// whatever the number (one more chunk apart). Keys are digests but are not trusted to be uniform:
// the table sees them mixed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "core/digest.h"
#include "core/policy.h"
#include "core/table.h"

namespace blatam {

// Bytes [offset, offset + size) of a segment's file. Offsets and sizes are multiples of 64, up to
// 2^30; segments are numbered from 1 to 2^40 - 1.
struct Place {
  uint64_t segment = 0;
  uint32_t offset = 0;
  uint32_t size = 0;

  // Whether the limits are kept.
  [[nodiscard]] bool valid() const noexcept;

  friend bool operator==(const Place&, const Place&) = default;
};

class Places {
 public:
  [[nodiscard]] size_t size() const;

  [[nodiscard]] std::optional<Place> find(const Digest& key) const;

  // The key's record lies there now, and was not read yet. Requires place.valid(). Throws
  // std::bad_alloc, having changed nothing.
  void set(const Digest& key, const Place& place);

  // The record was read, if it still lies there.
  void use(const Digest& key, const Place& place);

  // Whether the key's record was read since it was written there.
  [[nodiscard]] bool used(const Digest& key) const;

  // Drops the key, with the second form only if its record lies there. Whether it was dropped.
  bool forget(const Digest& key);
  bool forget(const Digest& key, const Place& place);

  // Drops all keys whose records lie in these segments; looks at every entry. Returns how many.
  size_t forget_segments(std::span<const uint64_t> segments);

  void clear();

  // Every key and place, in the order of writing.
  [[nodiscard]] std::vector<std::pair<Digest, Place>> in_order() const;

  // Every entry as 48 bytes, in no particular order: key, segment (u64), offset (u32), size (u32)
  // with bit 0 for "read since it was written", little-endian.
  static constexpr size_t kSavedBytes = 48;
  [[nodiscard]] size_t saved_bytes() const;
  // Writes as many whole entries as `out` holds; returns the bytes written.
  size_t save(std::span<uint8_t> out) const;
  // Sets what save() wrote. False, having changed nothing, if an entry is no valid place.
  [[nodiscard]] bool load(std::span<const uint8_t> saved);

  // Records as a segment's file has them: `window` is what lies from `offset` on, of records that
  // end at `end` at most. Takes intact headers, version 1, one after the other: sets a value's
  // place, forgets a tombstone's key. Stops before the first header that is anything else, is not
  // whole in the window or has a record that passes `end`. Returns where that one begins.
  uint64_t take(std::span<const uint8_t> window, uint64_t segment, uint64_t offset, uint64_t end);

  // Bytes of memory it takes.
  [[nodiscard]] size_t memory_bytes() const;

 private:
  static constexpr size_t kChunk = 1024;

  struct Entry {
    Digest key;
    uint64_t segment_and_offset;  // segment << 24 | offset / 64
    uint32_t size_and_used;       // 0: free
    Slot next_free;
  };
  static_assert(sizeof(Entry) == 48);

  static uint64_t hash_of(const Digest& key) noexcept;
  static uint64_t packed(const Place& place) noexcept {
    return place.segment << 24 | place.offset / 64;
  }
  static Place place_of(const Entry& entry) noexcept;
  static bool lies_at(const Entry& entry, const Place& place) noexcept;

  // With the lock held.
  [[nodiscard]] Entry& at(Slot slot) const noexcept {
    return chunks_[slot / kChunk][slot % kChunk];
  }
  [[nodiscard]] Slot slot_of(const Digest& key) const;
  void put(const Digest& key, const Place& place, bool used);
  void drop(Slot slot);
  template <class Visit>
  void each(Visit&& visit) const;

  mutable std::mutex mutex_;
  std::vector<std::unique_ptr<Entry[]>> chunks_;
  Table table_;
  Slot free_ = kNoSlot;
  Slot unused_ = 0;  // slots from here on were never taken
};

}  // namespace blatam
