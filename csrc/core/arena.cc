#include "core/arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <new>

namespace blatam {

namespace {

// So many stretches of a bin are looked at.
constexpr int kLook = 8;
// Of newer headers than some compilers come with.
constexpr int kPopulateWrite = 23;

constexpr uint64_t padding(uint64_t at, uint64_t alignment) {
  return (alignment - at % alignment) % alignment;
}

}  // namespace

Arena::Arena(uint64_t bytes, uint64_t spare_bytes)
    : bytes_((bytes + kPage - 1) / kPage * kPage), spare_bytes_(spare_bytes) {
  if (bytes == 0 || bytes > SIZE_MAX / 2) throw std::bad_alloc();
  reserve(1);
  void* all = mmap(nullptr, bytes_ + kHuge, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (all == MAP_FAILED) throw std::bad_alloc();
  // What lies before a huge page and behind the last address goes back.
  auto* const from = static_cast<uint8_t*>(all);
  const uint64_t before = padding(reinterpret_cast<uintptr_t>(from), kHuge);
  base_ = from + before;
  if (before != 0) munmap(from, before);
  if (before != kHuge) munmap(base_ + bytes_, kHuge - before);
  const Slot whole = unused_;
  unused_ = stretches_[whole].after;
  --unused_count_;
  stretches_[whole] = {.at = 0, .bytes = bytes_};
  list(whole, State::kCold);
}

Arena::~Arena() { munmap(base_, bytes_); }

Arena::Piece Arena::take(size_t bytes) {
  if (bytes > bytes_) return {};
  const uint64_t wanted = rounded(bytes);
  const uint64_t alignment = bytes >= kLarge ? kPage : kAlignment;
  std::unique_lock guard(lock_);
  Slot slot = find(State::kWarm, wanted, alignment);
  if (slot == kNoSlot) slot = find(State::kCold, wanted, alignment);
  if (slot == kNoSlot && warm_bytes_ != 0) {  // maybe both together
    cool(guard, 0);
    slot = find(State::kCold, wanted, alignment);
  }
  if (slot == kNoSlot) return {};
  reserve(3);  // for what is left on both sides
  const State state = stretches_[slot].state;
  unlist(slot);
  if (const uint64_t before = padding(stretches_[slot].at, alignment); before != 0) {
    const Slot rest = cut(slot, before);
    list(slot, state);
    slot = rest;
  }
  taken_bytes_ += wanted;
  const bool fresh = stretches_[slot].at + wanted > fresh_;
  if (fresh && bytes >= kLarge && spare_bytes_ >= 2 * kHuge) {
    begin_using(guard, slot, wanted);
  } else {
    fresh_ = std::max(fresh_, (stretches_[slot].at + wanted + kHuge - 1) / kHuge * kHuge);
    if (stretches_[slot].bytes > wanted) list(cut(slot, wanted), state);
  }
  return {base_ + stretches_[slot].at, bytes, slot};
}

void Arena::shrink(Piece& piece, size_t bytes) noexcept {
  const uint64_t kept = rounded(bytes);
  std::unique_lock guard(lock_);
  piece.bytes = bytes;
  const uint64_t had = stretches_[piece.id].bytes;
  if (kept >= had) return;
  try {
    reserve(1);
  } catch (const std::bad_alloc&) {
    return;  // then its end goes with the rest of it
  }
  taken_bytes_ -= had - kept;
  set_free(cut(piece.id, kept), State::kWarm);
  cool(guard, spare_bytes_);
}

void Arena::give(const Piece& piece) noexcept {
  std::unique_lock guard(lock_);
  taken_bytes_ -= stretches_[piece.id].bytes;
  set_free(piece.id, State::kWarm);
  cool(guard, spare_bytes_);
}

uint64_t Arena::taken_bytes() const noexcept {
  const std::lock_guard guard(lock_);
  return taken_bytes_;
}

uint64_t Arena::warm_bytes() const noexcept {
  const std::lock_guard guard(lock_);
  return warm_bytes_;
}

size_t Arena::bin_of(uint64_t bytes) noexcept {
  const uint64_t units = bytes / kAlignment;
  const auto power = static_cast<size_t>(std::bit_width(units)) - 1;
  const uint64_t eighth = power >= 3 ? units >> (power - 3) & 7 : units << (3 - power) & 7;
  return std::min(8 * power + static_cast<size_t>(eighth), kBins - 1);
}

// Everything that allocates.
void Arena::reserve(size_t more) {
  if (unused_count_ >= more) return;
  const size_t had = stretches_.size();
  const size_t wanted = std::max<size_t>(64, 2 * had);
  if (wanted >= kNoSlot) throw std::bad_alloc();
  links_.grow(wanted);
  stretches_.resize(wanted);
  for (size_t slot = wanted; slot-- > had;) {
    stretches_[slot].after = unused_;
    unused_ = static_cast<Slot>(slot);
  }
  unused_count_ += wanted - had;
}

Slot Arena::find(State state, uint64_t bytes, uint64_t alignment) const noexcept {
  const Free& all = state == State::kWarm ? warm_ : cold_;
  size_t bin = bin_of(bytes);
  while (bin < kBins) {
    const uint64_t rest = all.some[bin / 64] >> bin % 64;
    if (rest == 0) {
      bin = (bin / 64 + 1) * 64;
      continue;
    }
    bin += static_cast<size_t>(std::countr_zero(rest));
    Slot slot = all.bins[bin].newest;
    for (int looked = 0; slot != kNoSlot && looked < kLook; ++looked, slot = links_.older(slot)) {
      const Stretch& stretch = stretches_[slot];
      if (stretch.bytes >= bytes + padding(stretch.at, alignment)) return slot;
    }
    ++bin;
  }
  return kNoSlot;
}

void Arena::list(Slot slot, State state) noexcept {
  Stretch& stretch = stretches_[slot];
  stretch.state = state;
  const size_t bin = bin_of(stretch.bytes);
  links_.push_newest(free(state).bins[bin], slot);
  free(state).some[bin / 64] |= uint64_t{1} << bin % 64;
  if (state == State::kWarm) warm_bytes_ += stretch.bytes;
}

void Arena::unlist(Slot slot) noexcept {
  Stretch& stretch = stretches_[slot];
  const size_t bin = bin_of(stretch.bytes);
  Free& all = free(stretch.state);
  links_.unlink(all.bins[bin], slot);
  if (all.bins[bin].empty()) all.some[bin / 64] &= ~(uint64_t{1} << bin % 64);
  if (stretch.state == State::kWarm) warm_bytes_ -= stretch.bytes;
  stretch.state = State::kTaken;
}

// Leaves so many bytes of a stretch that is in no list; returns the rest, which is in none either.
Slot Arena::cut(Slot slot, uint64_t bytes) noexcept {
  const Slot rest = unused_;  // reserved
  unused_ = stretches_[rest].after;
  --unused_count_;
  Stretch& stretch = stretches_[slot];
  stretches_[rest] = {.at = stretch.at + bytes,
                      .bytes = stretch.bytes - bytes,
                      .before = slot,
                      .after = stretch.after};
  if (stretch.after != kNoSlot) stretches_[stretch.after].before = rest;
  stretch.after = rest;
  stretch.bytes = bytes;
  return rest;
}

// Adds the next stretch to one; neither is in a list.
void Arena::swallow(Slot slot, Slot next) noexcept {
  Stretch& stretch = stretches_[slot];
  stretch.bytes += stretches_[next].bytes;
  stretch.after = stretches_[next].after;
  if (stretch.after != kNoSlot) stretches_[stretch.after].before = slot;
  stretches_[next] = {.after = unused_};
  unused_ = next;
  ++unused_count_;
}

// Lists a stretch that is in no list, with its neighbours if they are free in the same way.
void Arena::set_free(Slot slot, State state) noexcept {
  const Slot before = stretches_[slot].before;
  const Slot after = stretches_[slot].after;
  if (after != kNoSlot && stretches_[after].state == state) {
    unlist(after);
    swallow(slot, after);
  }
  if (before != kNoSlot && stretches_[before].state == state) {
    unlist(before);
    swallow(before, slot);
    slot = before;
  }
  list(slot, state);
}

// Leaves so many bytes of a stretch, in no list, that reaches into what was never used. It is used
// up to the end of a huge page: what is left of that is warm.
void Arena::begin_using(std::unique_lock<std::mutex>& lock, Slot slot, uint64_t bytes) noexcept {
  const Stretch& stretch = stretches_[slot];
  const uint64_t from = fresh_;
  const uint64_t end = stretch.at + bytes;
  const uint64_t used = std::min(end + padding(end, kHuge), stretch.at + stretch.bytes);
  fresh_ = end + padding(end, kHuge);
  if (stretch.at + stretch.bytes > used) list(cut(slot, used - stretch.at), State::kCold);
  const Slot rest = used > end ? cut(slot, bytes) : kNoSlot;
  lock.unlock();
  // Later on pages come and go one by one, which no daemon should undo.
  madvise(base_ + from, used - from, MADV_HUGEPAGE);
  madvise(base_ + from, used - from, kPopulateWrite);
  madvise(base_ + from, used - from, MADV_NOHUGEPAGE);
  lock.lock();
  if (rest == kNoSlot) return;
  set_free(rest, State::kWarm);
  cool(lock, spare_bytes_);
}

// Returns to the system what is warm beyond so many bytes, the largest stretches first; the lock is
// let go meanwhile.
void Arena::cool(std::unique_lock<std::mutex>& lock, uint64_t most) noexcept {
  while (warm_bytes_ > most) {
    size_t word = warm_.some.size();
    while (warm_.some[--word] == 0) {
    }
    const size_t bin = 64 * word + static_cast<size_t>(std::bit_width(warm_.some[word])) - 1;
    const Slot slot = warm_.bins[bin].oldest;
    unlist(slot);  // so that nobody takes it now
    const uint64_t from = stretches_[slot].at + padding(stretches_[slot].at, kPage);
    const uint64_t end = (stretches_[slot].at + stretches_[slot].bytes) / kPage * kPage;
    lock.unlock();
    if (from < end) madvise(base_ + from, end - from, MADV_DONTNEED);
    lock.lock();
    set_free(slot, State::kCold);
  }
}

}  // namespace blatam
