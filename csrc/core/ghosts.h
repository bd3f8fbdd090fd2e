// Ghosts remember what has left, by the hash of its key: queues in order of leaving over one pool
// of places, and a Table that finds a hash in any of them. A hash is remembered once, as it left
// last. 17 bytes a place and 8 of the table; no allocation after grow().
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/slot_list.h"
#include "core/table.h"

namespace blatam {

template <uint8_t kQueues>
class Ghosts {
 public:
  using Id = Slot;

  // Makes room for as many at a time, in all queues together.
  void grow(size_t places) {
    if (places <= hashes_.size()) return;
    table_.reserve(places, [&](Id id) { return hashes_[id]; });
    links_.grow(places);
    queue_of_.resize(places);
    hashes_.resize(places);
  }

  [[nodiscard]] size_t size() const noexcept { return table_.size(); }
  [[nodiscard]] size_t size(uint8_t queue) const noexcept { return sizes_[queue]; }
  [[nodiscard]] uint8_t queue_of(Id id) const noexcept { return queue_of_[id]; }
  // kNoSlot if it is not remembered.
  [[nodiscard]] Id find(uint64_t hash) const noexcept {
    return table_.find(hash, [&](Id id) { return hashes_[id] == hash; });
  }

  // Requires grow(1) or more. Without room, forgets the oldest of this queue, or of the next.
  void push(uint8_t queue, uint64_t hash) noexcept {
    if (const Id again = find(hash); again != kNoSlot) forget(again);
    for (unsigned crowded = queue; size() == hashes_.size(); ++crowded) {
      forget_oldest(static_cast<uint8_t>(crowded % kQueues));
    }
    Id id = free_;
    if (id == kNoSlot) {
      id = fresh_++;
    } else {
      free_ = static_cast<Id>(hashes_[id]);
    }
    hashes_[id] = hash;
    queue_of_[id] = queue;
    links_.push_newest(queues_[queue], id);
    ++sizes_[queue];
    table_.insert(hash, id);
  }

  void forget(Id id) noexcept {
    const uint8_t queue = queue_of_[id];
    links_.unlink(queues_[queue], id);
    --sizes_[queue];
    table_.erase(hashes_[id], id);
    hashes_[id] = free_;
    free_ = id;
  }

  // Does nothing to an empty queue.
  void forget_oldest(uint8_t queue) noexcept {
    const Id id = queues_[queue].oldest;
    if (id == kNoSlot) return;
    const Id next = links_.newer(id);
    forget(id);
    // The next to go is known long before: what it will touch comes meanwhile.
    if (next != kNoSlot) table_.prefetch(hashes_[next]);
  }

  [[nodiscard]] size_t memory_bytes() const noexcept {
    return table_.memory_bytes() + links_.memory_bytes() + queue_of_.capacity() +
           hashes_.capacity() * sizeof(uint64_t);
  }

 private:
  Table table_;
  SlotLinks links_;
  std::vector<uint64_t> hashes_;  // of a free place: the next free one
  std::vector<uint8_t> queue_of_;
  std::array<SlotList, kQueues> queues_;
  std::array<size_t, kQueues> sizes_{};
  Id fresh_ = 0;  // places from here on were never used
  Id free_ = kNoSlot;
};

}  // namespace blatam
