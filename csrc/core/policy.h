// A Policy decides which entry leaves. It sees dense slot numbers, never keys or values, and its
// whole vocabulary is insert, hit, victim, remove. It takes no lock, reads no clock and allocates
// nothing on a hit; whoever owns it calls it from one thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

namespace blatam {

using Slot = uint32_t;
inline constexpr Slot kNoSlot = 0xFFFFFFFF;

// How often each slot is pinned. A pinned slot stays in its policy, is hit as usual, and is passed
// over when a victim is chosen, so that unpinning finds it where its history put it.
class Pins {
 public:
  [[nodiscard]] bool any() const noexcept { return pinned_ != 0; }
  [[nodiscard]] size_t pinned() const noexcept { return pinned_; }
  [[nodiscard]] bool holds(Slot slot) const noexcept {
    return pinned_ != 0 && slot < counts_.size() && counts_[slot] != 0;
  }

  // Returns true if the slot was not pinned before. May throw std::bad_alloc.
  bool pin(Slot slot) {
    if (slot >= counts_.size()) counts_.resize(slot + size_t{1});
    pinned_ += counts_[slot] == 0;
    return counts_[slot]++ == 0;
  }
  // Requires holds(slot). Returns true if that was its last pin.
  bool unpin(Slot slot) noexcept {
    const bool last = --counts_[slot] == 0;
    pinned_ -= last;
    return last;
  }
  void forget(Slot slot) noexcept {
    if (!holds(slot)) return;
    counts_[slot] = 0;
    --pinned_;
  }

 private:
  std::vector<uint32_t> counts_;
  size_t pinned_ = 0;
};

class Policy {
 public:
  Policy() = default;
  Policy(const Policy&) = delete;
  Policy& operator=(const Policy&) = delete;
  virtual ~Policy() = default;

  // Makes room for slots [0, slots). The only call that allocates; never shrinks.
  virtual void grow(size_t slots) = 0;
  // Requires slot < the last grow() and slot not inside.
  virtual void insert(Slot slot) noexcept = 0;
  // The entry was read, or its value replaced. Requires slot inside.
  virtual void hit(Slot slot) noexcept = 0;
  // The slot to evict next among those not pinned, or kNoSlot. Changes nothing: the owner calls
  // remove() when it acts on the answer.
  [[nodiscard]] virtual Slot victim(const Pins& pins) const noexcept = 0;
  // Requires slot inside.
  virtual void remove(Slot slot) noexcept = 0;
};

// Throws std::invalid_argument that lists the known names.
std::unique_ptr<Policy> make_policy(std::string_view name);
std::span<const std::string_view> policy_names() noexcept;

}  // namespace blatam
