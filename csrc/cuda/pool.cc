#include "cuda/pool.h"

#include <iterator>

namespace blatam::cuda {

int Pool::open(Runtime& runtime, uint64_t bytes, std::unique_ptr<Pool>* pool) {
  const uint64_t whole = bytes / kAlignment * kAlignment;
  if (whole == 0) return kTooSmall;
  uint8_t* base = nullptr;
  if (const int code = runtime.allocate(whole, &base); code != kOk) return code;
  pool->reset(new Pool(runtime, base, whole));
  return kOk;
}

Pool::Pool(Runtime& runtime, uint8_t* base, uint64_t bytes)
    : runtime_(runtime), base_(base), bytes_(bytes) {
  join(0, bytes);
}

Pool::~Pool() { runtime_.release(base_); }

int Pool::take(uint64_t bytes, bool wait, Piece* piece) {
  if (bytes > bytes_) return kFull;
  for (;;) {
    std::shared_ptr<Mark> oldest;
    {
      const std::lock_guard held(lock_);
      const int code = settle();
      if (cut(bytes, piece)) return kOk;
      if (!wait || parting_.empty()) return code == kNotYet || code == kOk ? kFull : code;
      oldest = parting_.front().uses.back();  // which settle() looks at first
    }
    if (const int code = oldest->await(); code != kOk) return code;
  }
}

void Pool::give(const Piece& piece, Marks uses) {
  prune(uses);
  const std::lock_guard held(lock_);
  if (uses.empty()) {
    join(piece.at, rounded(piece.bytes));
  } else {
    parting_.push_back({piece, std::move(uses)});
  }
}

uint64_t Pool::taken_bytes() const {
  const std::lock_guard held(lock_);
  return bytes_ - free_bytes_;
}

bool Pool::cut(uint64_t bytes, Piece* piece) {
  const uint64_t size = rounded(bytes);
  const auto found = by_size_.lower_bound({size, 0});
  if (found == by_size_.end()) return false;
  const auto [room, at] = *found;
  by_size_.erase(found);
  free_.erase(at);
  if (room > size) {
    free_.emplace(at + size, room - size);
    by_size_.emplace(room - size, at + size);
  }
  free_bytes_ -= size;
  *piece = {at, bytes};
  return true;
}

void Pool::join(uint64_t at, uint64_t bytes) {
  free_bytes_ += bytes;
  auto next = free_.lower_bound(at);
  if (next != free_.end() && next->first == at + bytes) {
    by_size_.erase({next->second, next->first});
    bytes += next->second;
    next = free_.erase(next);
  }
  if (next != free_.begin()) {
    const auto before = std::prev(next);
    if (before->first + before->second == at) {
      by_size_.erase({before->second, before->first});
      at = before->first;
      bytes += before->second;
      free_.erase(before);
    }
  }
  free_.emplace(at, bytes);
  by_size_.emplace(bytes, at);
}

// Frees what has passed; the last thing that the device said of what has not.
int Pool::settle() {
  int code = kOk;
  std::erase_if(parting_, [&](Parting& parting) {
    while (!parting.uses.empty()) {
      const int now = parting.uses.back()->passed();
      if (now != kOk) {
        code = now;
        return false;
      }
      parting.uses.pop_back();
    }
    join(parting.piece.at, rounded(parting.piece.bytes));
    return true;
  });
  return code;
}

}  // namespace blatam::cuda
