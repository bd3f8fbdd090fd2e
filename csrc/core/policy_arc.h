// ARC, adaptive replacement (Megiddo and Modha, FAST 2003): a list of what was used once (recent)
// and one of what was used again (frequent), each followed by the ghosts of those that it lost. A
// miss on a ghost tells which of the two was too short, and moves the target size of the recent
// one. Seldom far below LRU or LFU; loops and long scans defeat it.
//
// The paper forgets, replaces and inserts in an order that depends on the case. Here a ghost's
// return adapts the target, an eviction makes one ghost, the insertion follows, and after each two
// bounds are restored: recent and its ghosts hold at most c hashes, all four lists at most 2c. The
// outcome is the paper's, in its special case of a recent list of size c too. And it keeps its
// meaning where c changes, entries were deleted, or several leave for one that comes.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <vector>

#include "core/arrival.h"
#include "core/ghosts.h"

namespace blatam {

class Arc final : public Policy {
 public:
  void grow(size_t slots) override {
    links_.grow(slots);
    ghosts_.grow(slots + 2);  // two evictions for one that comes may exceed the bounds so far
    if (slots <= hashes_.size()) return;
    list_of_.resize(slots);
    hashes_.resize(slots);
  }
  void set_capacity(size_t entries) noexcept override { capacity_ = entries; }

  void insert(Slot slot, const Item& item) noexcept override {
    arrive(item.hash);
    arrival_.inserted();
    hashes_[slot] = item.hash;
    push(returns_ ? kFrequent : kRecent, slot);
    restore_bounds();
  }

  void hit(Slot slot) noexcept override {
    if (slot == lists_[kFrequent].newest) return;
    unlink(slot);
    push(kFrequent, slot);
  }

  [[nodiscard]] Slot evict(const Pins& pins, const Item* incoming) noexcept override {
    bool lost_by_frequent = false;
    if (incoming != nullptr) {
      arrive(incoming->hash);
      lost_by_frequent = returns_ && returns_to_ == kFrequent;
    }
    const double recent = static_cast<double>(sizes_[kRecent]);
    const double target = std::floor(std::min(target_, static_cast<double>(capacity())));
    uint8_t list = recent > target || (lost_by_frequent && recent == target) ? kRecent : kFrequent;
    Slot slot = links_.oldest_unpinned(lists_[list], pins);
    if (slot == kNoSlot) {
      list = list == kRecent ? kFrequent : kRecent;
      slot = links_.oldest_unpinned(lists_[list], pins);
      if (slot == kNoSlot) return kNoSlot;
    }
    unlink(slot);
    ghosts_.push(list, hashes_[slot]);
    restore_bounds();
    return slot;
  }

  [[nodiscard]] Guess next_victims() const noexcept override {
    const bool recent = static_cast<double>(sizes_[kRecent]) > target_;
    const Slot slot = lists_[recent ? kRecent : kFrequent].oldest;
    if (slot == kNoSlot) return {};
    return {slot, links_.newer(slot)};
  }

  void remove(Slot slot) noexcept override { unlink(slot); }

  [[nodiscard]] size_t memory_bytes() const noexcept override {
    return links_.memory_bytes() + ghosts_.memory_bytes() + list_of_.capacity() +
           hashes_.capacity() * sizeof(uint64_t);
  }

 private:
  static constexpr uint8_t kRecent = 0;
  static constexpr uint8_t kFrequent = 1;

  // The paper's c. Where bytes are the limit, more may be here than there were when it was told.
  [[nodiscard]] size_t capacity() const noexcept {
    return std::max(capacity_, sizes_[kRecent] + sizes_[kFrequent]);
  }

  void arrive(uint64_t hash) noexcept {
    if (!arrival_.announce(hash)) return;
    const Slot ghost = ghosts_.find(hash);
    returns_ = ghost != kNoSlot;
    if (!returns_) return;
    returns_to_ = ghosts_.queue_of(ghost);
    const auto recent = static_cast<double>(ghosts_.size(kRecent));
    const auto frequent = static_cast<double>(ghosts_.size(kFrequent));
    const auto most = static_cast<double>(capacity());
    target_ = std::min(target_, most);
    if (returns_to_ == kRecent) {
      target_ = std::min(target_ + std::max(frequent / recent, 1.0), most);
    } else {
      target_ = std::max(target_ - std::max(recent / frequent, 1.0), 0.0);
    }
    ghosts_.forget(ghost);
  }

  void restore_bounds() noexcept {
    const size_t most = capacity();
    if (most == kUnbounded) return;
    while (sizes_[kRecent] + ghosts_.size(kRecent) > most && ghosts_.size(kRecent) != 0) {
      ghosts_.forget_oldest(kRecent);
    }
    while (sizes_[kRecent] + sizes_[kFrequent] + ghosts_.size() > 2 * most) {
      ghosts_.forget_oldest(ghosts_.size(kFrequent) != 0 ? kFrequent : kRecent);
    }
  }

  void push(uint8_t list, Slot slot) noexcept {
    links_.push_newest(lists_[list], slot);
    list_of_[slot] = list;
    ++sizes_[list];
  }
  void unlink(Slot slot) noexcept {
    const uint8_t list = list_of_[slot];
    links_.unlink(lists_[list], slot);
    --sizes_[list];
  }

  SlotLinks links_;
  std::array<SlotList, 2> lists_;
  std::array<size_t, 2> sizes_{};
  std::vector<uint8_t> list_of_;
  std::vector<uint64_t> hashes_;
  Ghosts<2> ghosts_;  // a queue for each list
  size_t capacity_ = kUnbounded;
  double target_ = 0;  // the paper's p: size of the recent list; a real number, compared in entries
  Arrival arrival_;
  bool returns_ = false;          // what arrives was a ghost,
  uint8_t returns_to_ = kRecent;  // lost by this list
};

}  // namespace blatam
