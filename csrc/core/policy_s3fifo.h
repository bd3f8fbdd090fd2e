// S3-FIFO (Yang et al., SOSP 2023): a small queue on trial (a tenth of the entries), a main queue,
// and ghosts of those that failed the trial, as many as main is long. A hit only counts, up to
// three. Two hits during the trial earn a place in main, and so does coming back as a ghost. In
// main each round costs a hit; what has none left leaves. Most keys are used once, and pass through
// the trial without disturbing the others.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "core/arrival.h"
#include "core/ghosts.h"

namespace blatam {

class S3Fifo final : public Policy {
 public:
  void grow(size_t slots) override {
    links_.grow(slots);
    ghosts_.grow(slots);  // one more than main is long: see remember()
    if (slots <= hashes_.size()) return;
    states_.resize(slots);
    hashes_.resize(slots);
  }
  void set_capacity(size_t entries) noexcept override { capacity_ = entries; }

  void insert(Slot slot, const Item& item) noexcept override {
    arrive(item.hash);
    arrival_.inserted();
    hashes_[slot] = item.hash;
    push(returns_ ? kMain : kTrial, slot, 0);
  }

  void hit(Slot slot) noexcept override {
    if (states_[slot].hits < kMostHits) ++states_[slot].hits;
  }

  [[nodiscard]] Slot evict(const Pins& pins, const Item* incoming) noexcept override {
    if (incoming != nullptr) arrive(incoming->hash);
    for (;;) {  // each round ends a trial or costs a hit
      uint8_t queue = sizes_[kTrial] >= trial_size() ? kTrial : kMain;
      Slot slot = links_.oldest_unpinned(queues_[queue], pins);
      if (slot == kNoSlot) {
        queue = queue == kTrial ? kMain : kTrial;
        slot = links_.oldest_unpinned(queues_[queue], pins);
        if (slot == kNoSlot) return kNoSlot;
      }
      const uint8_t hits = states_[slot].hits;
      const bool fails = queue == kTrial && hits < kPromoted;
      if (fails) remember(hashes_[slot]);
      unlink(slot);
      if (fails) return slot;
      if (queue == kTrial) {
        push(kMain, slot, 0);
      } else if (hits != 0) {
        push(kMain, slot, hits - 1);
      } else {
        return slot;
      }
    }
  }

  [[nodiscard]] Guess next_victims() const noexcept override {
    const Slot slot = queues_[sizes_[kTrial] >= trial_size() ? kTrial : kMain].oldest;
    if (slot == kNoSlot) return {};
    return {slot, links_.newer(slot)};
  }

  void remove(Slot slot) noexcept override { unlink(slot); }

  [[nodiscard]] size_t memory_bytes() const noexcept override {
    return links_.memory_bytes() + ghosts_.memory_bytes() + states_.capacity() * sizeof(State) +
           hashes_.capacity() * sizeof(uint64_t);
  }

 private:
  static constexpr uint8_t kTrial = 0;
  static constexpr uint8_t kMain = 1;
  static constexpr uint8_t kPromoted = 2;
  static constexpr uint8_t kMostHits = 3;
  struct State {
    uint8_t queue = kTrial;
    uint8_t hits = 0;
  };

  // Where bytes are the limit, more may be here than there were when it was told.
  [[nodiscard]] size_t capacity() const noexcept {
    const size_t entries = sizes_[kTrial] + sizes_[kMain];
    return capacity_ == kUnbounded ? entries : std::max(capacity_, entries);
  }
  [[nodiscard]] size_t trial_size() const noexcept { return std::max<size_t>(1, capacity() / 10); }

  void arrive(uint64_t hash) noexcept {
    if (!arrival_.announce(hash)) return;
    const Slot ghost = ghosts_.find(hash);
    returns_ = ghost != kNoSlot;
    if (returns_) ghosts_.forget(ghost);
  }

  void remember(uint64_t hash) noexcept {
    ghosts_.push(0, hash);
    const size_t most = capacity() - trial_size();
    while (ghosts_.size() > most) ghosts_.forget_oldest(0);
  }

  void push(uint8_t queue, Slot slot, uint8_t hits) noexcept {
    links_.push_newest(queues_[queue], slot);
    states_[slot] = {queue, hits};
    ++sizes_[queue];
  }
  void unlink(Slot slot) noexcept {
    const uint8_t queue = states_[slot].queue;
    links_.unlink(queues_[queue], slot);
    --sizes_[queue];
  }

  SlotLinks links_;
  std::array<SlotList, 2> queues_;
  std::array<size_t, 2> sizes_{};
  std::vector<State> states_;
  std::vector<uint64_t> hashes_;
  Ghosts<1> ghosts_;
  size_t capacity_ = kUnbounded;
  Arrival arrival_;
  bool returns_ = false;  // what arrives was a ghost
};

}  // namespace blatam
