#include "core/places.h"

#include <algorithm>
#include <cstring>

#include "core/mix.h"
#include "core/record.h"

namespace blatam {

namespace {

constexpr uint32_t kUnit = 64;
constexpr uint64_t kMostBytes = uint64_t{1} << 30;
constexpr uint64_t kSegments = uint64_t{1} << 40;
constexpr uint32_t kUsed = 1;

uint32_t load_le32(const uint8_t* from) noexcept {
  return from[0] | uint32_t{from[1]} << 8 | uint32_t{from[2]} << 16 | uint32_t{from[3]} << 24;
}

void store_le(uint8_t* to, uint64_t value, size_t bytes) noexcept {
  for (size_t i = 0; i < bytes; ++i) to[i] = static_cast<uint8_t>(value >> 8 * i);
}

}  // namespace

bool Place::valid() const noexcept {
  return segment >= 1 && segment < kSegments && offset % kUnit == 0 && size % kUnit == 0 &&
         size >= kRecordHeaderBytes && uint64_t{offset} + size <= kMostBytes;
}

size_t Places::size() const {
  const std::lock_guard lock(mutex_);
  return table_.size();
}

std::optional<Place> Places::find(const Digest& key) const {
  const std::lock_guard lock(mutex_);
  const Slot slot = slot_of(key);
  if (slot == kNoSlot) return std::nullopt;
  return place_of(at(slot));
}

void Places::set(const Digest& key, const Place& place) {
  const std::lock_guard lock(mutex_);
  put(key, place, false);
}

void Places::use(const Digest& key, const Place& place) {
  const std::lock_guard lock(mutex_);
  const Slot slot = slot_of(key);
  if (slot != kNoSlot && lies_at(at(slot), place)) at(slot).size_and_used |= kUsed;
}

bool Places::used(const Digest& key) const {
  const std::lock_guard lock(mutex_);
  const Slot slot = slot_of(key);
  return slot != kNoSlot && (at(slot).size_and_used & kUsed) != 0;
}

bool Places::forget(const Digest& key) {
  const std::lock_guard lock(mutex_);
  const Slot slot = slot_of(key);
  if (slot == kNoSlot) return false;
  drop(slot);
  return true;
}

bool Places::forget(const Digest& key, const Place& place) {
  const std::lock_guard lock(mutex_);
  const Slot slot = slot_of(key);
  if (slot == kNoSlot || !lies_at(at(slot), place)) return false;
  drop(slot);
  return true;
}

size_t Places::forget_segments(std::span<const uint64_t> segments) {
  std::vector<uint64_t> gone(segments.begin(), segments.end());
  std::sort(gone.begin(), gone.end());
  const std::lock_guard lock(mutex_);
  const size_t before = table_.size();
  for (Slot slot = 0; slot < unused_; ++slot) {
    const Entry& entry = at(slot);
    if (entry.size_and_used == 0) continue;
    if (std::binary_search(gone.begin(), gone.end(), entry.segment_and_offset >> 24)) drop(slot);
  }
  return before - table_.size();
}

void Places::clear() {
  const std::lock_guard lock(mutex_);
  chunks_.clear();
  table_ = Table();
  free_ = kNoSlot;
  unused_ = 0;
}

std::vector<std::pair<Digest, Place>> Places::in_order() const {
  std::vector<std::pair<Digest, Place>> all;
  {
    const std::lock_guard lock(mutex_);
    all.reserve(table_.size());
    each([&](const Entry& entry) { all.emplace_back(entry.key, place_of(entry)); });
  }
  std::sort(all.begin(), all.end(),
            [](const auto& a, const auto& b) { return packed(a.second) < packed(b.second); });
  return all;
}

size_t Places::saved_bytes() const { return size() * kSavedBytes; }

size_t Places::save(std::span<uint8_t> out) const {
  uint8_t* to = out.data();
  size_t left = out.size() / kSavedBytes;
  const std::lock_guard lock(mutex_);
  each([&](const Entry& entry) {
    if (left == 0) return;
    --left;
    const Place place = place_of(entry);
    std::memcpy(to, entry.key.bytes.data(), 32);
    store_le(to + 32, place.segment, 8);
    store_le(to + 40, place.offset, 4);
    store_le(to + 44, entry.size_and_used, 4);
    to += kSavedBytes;
  });
  return static_cast<size_t>(to - out.data());
}

bool Places::load(std::span<const uint8_t> saved) {
  const auto entry_at = [&](size_t i) {
    const uint8_t* from = saved.data() + i * kSavedBytes;
    const uint32_t size = load_le32(from + 44);
    return std::pair(Place{load_le64(from + 32), load_le32(from + 40), size & ~kUsed},
                     (size & kUsed) != 0);
  };
  const size_t entries = saved.size() / kSavedBytes;
  if (saved.size() % kSavedBytes != 0) return false;
  for (size_t i = 0; i < entries; ++i)
    if (!entry_at(i).first.valid()) return false;
  const std::lock_guard lock(mutex_);
  table_.reserve(table_.size() + entries, [&](Slot slot) { return hash_of(at(slot).key); });
  for (size_t i = 0; i < entries; ++i) {
    Digest key;
    std::memcpy(key.bytes.data(), saved.data() + i * kSavedBytes, 32);
    const auto [place, used] = entry_at(i);
    put(key, place, used);
  }
  return true;
}

uint64_t Places::take(std::span<const uint8_t> window, uint64_t segment, uint64_t offset,
                      uint64_t end) {
  const uint64_t base = offset;
  const std::lock_guard lock(mutex_);
  while (offset - base + kRecordHeaderBytes <= window.size()) {
    const auto header = read_record_header(window.data() + (offset - base));
    if (!header || header->record_bytes() > end - offset) break;
    const Place place{segment, static_cast<uint32_t>(offset),
                      static_cast<uint32_t>(header->record_bytes())};
    if (offset > kMostBytes || !place.valid()) break;
    Digest key;
    std::memcpy(key.bytes.data(), header->key().data(), 32);
    if (!header->is_tombstone()) {
      put(key, place, false);
    } else if (const Slot slot = slot_of(key); slot != kNoSlot) {
      drop(slot);
    }
    offset += header->record_bytes();
  }
  return offset;
}

size_t Places::memory_bytes() const {
  const std::lock_guard lock(mutex_);
  return sizeof(*this) + chunks_.size() * kChunk * sizeof(Entry) +
         chunks_.capacity() * sizeof(chunks_[0]) + table_.memory_bytes();
}

// Bytes that differ between keys may lie anywhere in them, so all of them count.
uint64_t Places::hash_of(const Digest& key) noexcept {
  const uint8_t* from = key.bytes.data();
  return mix(mix(mix(load_le64(from)) ^ load_le64(from + 8)) ^
             mix(mix(load_le64(from + 16) + 1) ^ load_le64(from + 24)));
}

Place Places::place_of(const Entry& entry) noexcept {
  return {entry.segment_and_offset >> 24,
          static_cast<uint32_t>(entry.segment_and_offset & 0xFFFFFF) * kUnit,
          entry.size_and_used & ~kUsed};
}

bool Places::lies_at(const Entry& entry, const Place& place) noexcept {
  return entry.segment_and_offset == packed(place) && (entry.size_and_used & ~kUsed) == place.size;
}

Slot Places::slot_of(const Digest& key) const {
  return table_.find(hash_of(key), [&](Slot slot) { return at(slot).key == key; });
}

void Places::put(const Digest& key, const Place& place, bool used) {
  Slot slot = slot_of(key);
  if (slot == kNoSlot) {
    if (table_.size() == table_.room()) {
      // By a half: what grows by more wastes more than the 64 bytes an entry may take.
      const size_t entries = std::max<size_t>(64, table_.size() + table_.size() / 2);
      table_.reserve(entries, [&](Slot inside) { return hash_of(at(inside).key); });
    }
    if (free_ != kNoSlot) {
      slot = free_;
      free_ = at(slot).next_free;
    } else {
      if (unused_ % kChunk == 0) chunks_.push_back(std::make_unique<Entry[]>(kChunk));
      slot = unused_++;
    }
    at(slot).key = key;
    table_.insert(hash_of(key), slot);
  }
  at(slot).segment_and_offset = packed(place);
  at(slot).size_and_used = place.size | (used ? kUsed : 0);
}

void Places::drop(Slot slot) {
  Entry& entry = at(slot);
  table_.erase(hash_of(entry.key), slot);
  entry.size_and_used = 0;
  entry.next_free = free_;
  free_ = slot;
}

template <class Visit>
void Places::each(Visit&& visit) const {
  for (Slot slot = 0; slot < unused_; ++slot)
    if (at(slot).size_and_used != 0) visit(at(slot));
}

}  // namespace blatam
