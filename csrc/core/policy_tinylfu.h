// W-TinyLFU (Einziger, Friedman, Manes, ACM TOS 2017): new entries pass through a window in order
// of last use; what the window pushes out stays only if it was seen more often lately than the
// entry that main would lose for it. Main is a segmented LRU: entries on probation leave first, a
// hit protects them, and four fifths of main can be protected. How often a key was seen, resident
// or not, a sketch remembers, and all counts are halved once ten requests have come for each entry.
//
// A small window resists scans and loops, a large one serves recency. Where its share is not given
// it climbs towards the better hit ratio (Einziger et al., Middleware 2018): every ten requests per
// entry it takes a step, turns round if the last one made things worse beyond chance, and steps
// ever shorter unless the ratio jumps.
//
// The window counts entries, whatever their size: a large one gets the same trial as all others.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <vector>

#include "core/arrival.h"
#include "core/frequency_sketch.h"
#include "core/slot_list.h"

namespace blatam {

class TinyLfu final : public Policy {
 public:
  explicit TinyLfu(const PolicyOptions& options)
      : adapts_(options.window < 0), share_(adapts_ ? kFirstShare : options.window) {}

  void grow(size_t slots) override {
    links_.grow(slots);
    sketch_.grow(slots);
    if (slots <= hashes_.size()) return;
    region_of_.resize(slots);
    hashes_.resize(slots);
  }
  void set_capacity(size_t entries) noexcept override { capacity_ = entries; }

  void insert(Slot slot, const Item& item) noexcept override {
    sketch_.fit(size() + 1);
    arrive(item.hash);
    arrival_.inserted();
    hashes_[slot] = item.hash;
    push(kWindow, slot);
    // Two for one, so that a window grown too large shrinks over many inserts, not in one.
    for (int moves = 2; moves != 0 && sizes_[kWindow] > window_size(); --moves) {
      move(kProbation, lists_[kWindow].oldest);
    }
  }

  void hit(Slot slot) noexcept override {
    see(hashes_[slot]);
    if (adapts_) climb(1);
    const uint8_t region = region_of_[slot];
    if (region != kProbation) {
      move(region, slot);
      return;
    }
    move(kProtected, slot);
    while (sizes_[kProtected] > protected_size()) move(kProbation, lists_[kProtected].oldest);
  }

  [[nodiscard]] Slot evict(const Pins& pins, const Item* incoming) noexcept override {
    if (incoming != nullptr) arrive(incoming->hash);
    Slot victim = links_.oldest_unpinned(lists_[kProbation], pins);
    if (victim == kNoSlot) victim = links_.oldest_unpinned(lists_[kProtected], pins);
    if (victim == kNoSlot || sizes_[kWindow] >= window_size()) {
      const Slot candidate = links_.oldest_unpinned(lists_[kWindow], pins);
      if (victim == kNoSlot || (candidate != kNoSlot && !deserves(candidate, victim))) {
        victim = candidate;
      }
    }
    if (victim != kNoSlot) unlink(victim);
    return victim;
  }

  void remove(Slot slot) noexcept override { unlink(slot); }

  // What the window's share is now, from 0 to 1.
  [[nodiscard]] double window() const noexcept { return share_; }

  [[nodiscard]] size_t memory_bytes() const noexcept override {
    return links_.memory_bytes() + sketch_.memory_bytes() + region_of_.capacity() +
           hashes_.capacity() * sizeof(uint64_t);
  }

 private:
  static constexpr uint8_t kWindow = 0;
  static constexpr uint8_t kProbation = 1;
  static constexpr uint8_t kProtected = 2;
  static constexpr size_t kPeriod = 10;  // requests per entry between halvings, between steps
  static constexpr double kFirstShare = 0.05;
  static constexpr double kMostShare = 0.8;
  static constexpr double kFirstStep = 0.0625;
  static constexpr double kShorter = 0.98;
  static constexpr double kJump = 0.05;  // in the hit ratio: as if all began anew

  [[nodiscard]] size_t size() const noexcept {
    return sizes_[kWindow] + sizes_[kProbation] + sizes_[kProtected];
  }
  // Where bytes are the limit, more may be here than there were when it was told.
  [[nodiscard]] size_t capacity() const noexcept {
    return capacity_ == kUnbounded ? size() : std::max(capacity_, size());
  }
  [[nodiscard]] size_t window_size() const noexcept {
    const double entries = share_ * static_cast<double>(capacity());
    return std::max<size_t>(1, static_cast<size_t>(entries));
  }
  [[nodiscard]] size_t protected_size() const noexcept {
    return (capacity() - std::min(capacity(), window_size())) * 4 / 5;
  }

  [[nodiscard]] bool deserves(Slot candidate, Slot victim) noexcept {
    return sketch_.count(hashes_[candidate]) > sketch_.count(hashes_[victim]);
  }

  void arrive(uint64_t hash) noexcept {
    if (!arrival_.announce(hash)) return;
    see(hash);
    if (adapts_) climb(0);
  }

  void see(uint64_t hash) noexcept {
    sketch_.add(hash);
    if (++seen_ < kPeriod * std::max<size_t>(size(), 1)) return;
    sketch_.age();
    seen_ = 0;
  }

  void climb(unsigned hits) noexcept {
    hits_ += hits;
    if (++requests_ < kPeriod * capacity()) return;
    const double ratio = static_cast<double>(hits_) / static_cast<double>(requests_);
    const double change = ratio - last_ratio_;
    // A standard deviation: less tells nothing.
    const double noise = std::sqrt(ratio * (1 - ratio) / static_cast<double>(requests_));
    if (change < -noise) step_ = -step_;
    // At its bounds it turns round too: where nothing hits, no ratio gets worse.
    if (share_ + step_ < 0 || share_ + step_ > kMostShare) step_ = -step_;
    share_ = std::clamp(share_ + step_, 0.0, kMostShare);
    step_ = std::abs(change) < kJump ? step_ * kShorter : std::copysign(kFirstStep, step_);
    last_ratio_ = ratio;
    hits_ = 0;
    requests_ = 0;
  }

  void move(uint8_t region, Slot slot) noexcept {
    unlink(slot);
    push(region, slot);
  }
  void push(uint8_t region, Slot slot) noexcept {
    links_.push_newest(lists_[region], slot);
    region_of_[slot] = region;
    ++sizes_[region];
  }
  void unlink(Slot slot) noexcept {
    const uint8_t region = region_of_[slot];
    links_.unlink(lists_[region], slot);
    --sizes_[region];
  }

  SlotLinks links_;
  std::array<SlotList, 3> lists_;
  std::array<size_t, 3> sizes_{};
  std::vector<uint8_t> region_of_;
  std::vector<uint64_t> hashes_;
  FrequencySketch sketch_;
  size_t seen_ = 0;  // since the counts were halved
  size_t capacity_ = kUnbounded;
  Arrival arrival_;
  bool adapts_;
  double share_;
  double step_ = kFirstStep;
  double last_ratio_ = 0;
  size_t hits_ = 0;
  size_t requests_ = 0;
};

}  // namespace blatam
