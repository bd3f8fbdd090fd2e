// A Pool is a stretch of device memory, taken once and cut into pieces. So running out of device
// memory is an error of the opening call and of none later, and no call allocates, which on a
// device would stop every stream. Safe from any thread.
//
// A piece that is given back may still be in use: by a copy on its way, by a kernel that was
// queued. It comes with the marks of those uses and waits until all have passed; only then it is
// taken again. Of the free pieces the smallest that fits is cut, and neighbours are joined.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <utility>

#include "cuda/mark.h"

namespace blatam::cuda {

class Pool {
 public:
  static constexpr uint64_t kAlignment = 256;

  struct Piece {
    uint64_t at = 0;
    uint64_t bytes = 0;  // as asked for
  };

  // `bytes` are rounded down to whole kAlignment. kTooSmall if nothing is left.
  [[nodiscard]] static int open(Runtime& runtime, uint64_t bytes, std::unique_ptr<Pool>* pool);
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;
  // Requires that no stream works on it any more.
  ~Pool();

  static constexpr uint64_t rounded(uint64_t bytes) noexcept {
    const uint64_t least = bytes == 0 ? 1 : bytes;
    return (least + kAlignment - 1) / kAlignment * kAlignment;
  }

  // A piece with unspecified content. kFull if nothing free is large enough; with `wait` only after
  // all that was given back has passed. Else what the device says: a piece whose uses it cannot
  // tell is not taken again.
  [[nodiscard]] int take(uint64_t bytes, bool wait, Piece* piece);
  // Gives back a piece, which nothing but the work before these marks uses.
  void give(const Piece& piece, Marks uses);

  [[nodiscard]] uint8_t* base() const noexcept { return base_; }
  [[nodiscard]] uint64_t bytes() const noexcept { return bytes_; }
  // Pieces that were taken, as they are rounded, and those given back whose uses have not passed.
  [[nodiscard]] uint64_t taken_bytes() const;

 private:
  struct Parting {
    Piece piece;
    Marks uses;
  };

  Pool(Runtime& runtime, uint8_t* base, uint64_t bytes);
  // With the lock held.
  [[nodiscard]] bool cut(uint64_t bytes, Piece* piece);
  void join(uint64_t at, uint64_t bytes);
  [[nodiscard]] int settle();

  Runtime& runtime_;
  uint8_t* const base_;
  const uint64_t bytes_;
  mutable std::mutex lock_;  // guards what follows; never held while a device is waited for
  std::map<uint64_t, uint64_t> free_;                // where, and how much
  std::set<std::pair<uint64_t, uint64_t>> by_size_;  // how much, and where
  std::deque<Parting> parting_;                      // oldest first
  uint64_t free_bytes_ = 0;
};

}  // namespace blatam::cuda
