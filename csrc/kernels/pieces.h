// Output whose size is known only once it is written, by several threads at once: each range of
// work writes where its output would begin if everything before it took the most room it can.
// Afterwards the ranges move together.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

namespace blatam {

class Pieces {
 public:
  explicit Pieces(unsigned threads) : pieces_(threads) {}

  // A range that begins at `begin` of its output has written `bytes`. From any thread, at most once
  // for each of `threads`.
  void add(uint64_t begin, uint64_t bytes) { pieces_[count_++] = {begin, bytes}; }

  // Closes the gaps. Returns the bytes of all.
  uint64_t join(uint8_t* output) {
    std::sort(pieces_.begin(), pieces_.begin() + count_,
              [](const Piece& a, const Piece& b) { return a.begin < b.begin; });
    uint64_t end = 0;
    for (unsigned i = 0; i < count_; ++i) {
      if (pieces_[i].begin != end)
        std::memmove(output + end, output + pieces_[i].begin, pieces_[i].bytes);
      end += pieces_[i].bytes;
    }
    return end;
  }

 private:
  struct Piece {
    uint64_t begin;
    uint64_t bytes;
  };
  std::vector<Piece> pieces_;
  std::atomic<unsigned> count_ = 0;
};

// Has write(output) write where `most` bytes have room, and returns how many it wrote. That is the
// payload, unless it is smaller: then they go there if they fit all the same.
template <class Write>
uint64_t write_within(std::span<uint8_t> payload, uint64_t most, Write&& write) {
  if (payload.size() >= most) return write(payload.data());
  const auto room = std::make_unique_for_overwrite<uint8_t[]>(most);
  const uint64_t bytes = write(room.get());
  if (bytes <= payload.size()) std::memcpy(payload.data(), room.get(), bytes);
  return bytes;
}

}  // namespace blatam
