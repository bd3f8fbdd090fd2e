// An Arena is the memory that payloads lie in: a stretch of addresses of which pieces are taken and
// given back, from any thread. What it takes of the machine is what is taken and a little of what
// was given back: so many bytes stay warm for the next piece, the rest returns to the system at
// once. The general allocator keeps what it may need again, and after blocks of many sizes that
// was two thirds more than was in use.
//
// Addresses cost nothing, so there are more of them than bytes will ever be taken: then a piece
// finds a place however the free ones lie. A search looks at a few free stretches of the smallest
// sizes that fit, warm ones first, and never at all of them.
//
// Addresses never used before are taken into use in huge pages, where the spare is large enough for
// what is left of one: touching them 4 KiB at a time takes four times as long as filling them.
//
// Locks: one, held while lists change, never while memory is taken from the system or returns.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <vector>

#include "core/slot_list.h"

namespace blatam {

class Arena {
 public:
  static constexpr size_t kAlignment = 64;
  static constexpr size_t kPage = 4096;
  // Pieces of so many bytes and more are whole pages; smaller ones are multiples of kAlignment.
  static constexpr size_t kLarge = 8 * kPage;
  static constexpr size_t kHuge = size_t{2} << 20;

  struct Piece {
    uint8_t* data = nullptr;  // aligned to kPage if large, else to kAlignment
    size_t bytes = 0;         // as asked for
    Slot id = kNoSlot;
  };

  // Reserves `bytes` addresses, of which a page is taken when it is first touched, and keeps at
  // most spare_bytes of what is given back. Throws std::bad_alloc if there are not so many
  // addresses.
  Arena(uint64_t bytes, uint64_t spare_bytes);
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  // Requires that every piece was given back.
  ~Arena();

  // What a piece of so many bytes takes.
  static constexpr uint64_t rounded(uint64_t bytes) noexcept {
    const uint64_t unit = bytes >= kLarge ? kPage : kAlignment;
    return bytes == 0 ? unit : (bytes + unit - 1) / unit * unit;
  }

  // A piece with unspecified content; its data is null if there is no place for it. May throw
  // std::bad_alloc.
  [[nodiscard]] Piece take(size_t bytes);
  // Gives back the end of a piece, so that it has so many bytes. Requires bytes <= piece.bytes.
  void shrink(Piece& piece, size_t bytes) noexcept;
  // Gives back a piece, which nobody looks at any more.
  void give(const Piece& piece) noexcept;

  // Bytes of pieces as they are rounded, and of what is kept warm between them.
  [[nodiscard]] uint64_t taken_bytes() const noexcept;
  [[nodiscard]] uint64_t warm_bytes() const noexcept;
  // All its addresses.
  [[nodiscard]] std::span<const uint8_t> addresses() const noexcept { return {base_, bytes_}; }

 private:
  enum class State : uint8_t { kTaken, kWarm, kCold };
  // A stretch of addresses. Of one that is no stretch now: after is the next such.
  struct Stretch {
    uint64_t at = 0;
    uint64_t bytes = 0;
    Slot before = kNoSlot;
    Slot after = kNoSlot;
    State state = State::kTaken;
  };
  // Free stretches of one state by size, eight bins to a power of two.
  static constexpr size_t kBins = 8 * 48;
  struct Free {
    std::array<SlotList, kBins> bins{};
    std::array<uint64_t, kBins / 64> some{};  // a bit for each bin that has any
  };

  static size_t bin_of(uint64_t bytes) noexcept;
  [[nodiscard]] Free& free(State state) noexcept { return state == State::kWarm ? warm_ : cold_; }
  void reserve(size_t more);
  [[nodiscard]] Slot find(State state, uint64_t bytes, uint64_t alignment) const noexcept;
  void list(Slot slot, State state) noexcept;
  void unlist(Slot slot) noexcept;
  Slot cut(Slot slot, uint64_t bytes) noexcept;
  void swallow(Slot slot, Slot next) noexcept;
  void set_free(Slot slot, State state) noexcept;
  void begin_using(std::unique_lock<std::mutex>& lock, Slot slot, uint64_t bytes) noexcept;
  void cool(std::unique_lock<std::mutex>& lock, uint64_t most) noexcept;

  uint8_t* base_ = nullptr;  // begins a huge page
  const uint64_t bytes_;
  const uint64_t spare_bytes_;
  mutable std::mutex lock_;  // guards what follows
  std::vector<Stretch> stretches_;
  SlotLinks links_;
  Slot unused_ = kNoSlot;
  size_t unused_count_ = 0;
  Free warm_, cold_;
  uint64_t taken_bytes_ = 0;
  uint64_t warm_bytes_ = 0;
  uint64_t fresh_ = 0;  // from here on nothing was ever used; begins a huge page
};

}  // namespace blatam
