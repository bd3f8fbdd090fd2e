// A FrequencySketch estimates how often a hash was seen lately, resident or not: a count-min sketch
// (Cormode and Muthukrishnan 2005) of 4-bit counters that are halved from time to time. An estimate
// is never too low, but for the halvings, and saturates at 15. 17 to 34 bytes for each entry that
// it is made for.
//
// All four counters of a hash lie in one block of 64 bytes, so that counting costs one cache miss.
// age() halves every counter in O(1): a block notes how often it was halved and catches up when it
// is next looked at. Growing copies what is there: an estimate stays what it was.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace blatam {

class FrequencySketch {
 public:
  static constexpr unsigned kMost = 15;

  // Makes room for fit(entries).
  void grow(size_t entries) {
    const size_t blocks = blocks_for(entries);
    if (blocks <= blocks_.size()) return;
    blocks_.resize(blocks);
    ages_.resize(blocks);
    if (used_ == 0) used_ = kFewestBlocks;
  }

  // Doubles until it is wide enough for so many. Requires grow(entries).
  void fit(size_t entries) noexcept {
    for (const size_t wanted = blocks_for(entries); used_ < wanted; used_ *= 2) {
      std::copy_n(blocks_.data(), used_, blocks_.data() + used_);
      std::copy_n(ages_.data(), used_, ages_.data() + used_);
    }
  }

  void prefetch(uint64_t hash) const noexcept {
    const Block& block = blocks_[spread(hash) & (used_ - 1)];
    __builtin_prefetch(&block);
  }

  // Requires grow(1) or more, as do all below.
  void add(uint64_t hash) noexcept {
    const uint64_t bits = spread(hash);
    Block& block = up_to_date(bits);
    for (unsigned row = 0; row < kRows; ++row) {
      const unsigned shift = shift_of(row, bits);
      uint64_t& word = block.words[word_of(row, bits)];
      if ((word >> shift & kMost) != kMost) word += uint64_t{1} << shift;
    }
  }

  [[nodiscard]] unsigned count(uint64_t hash) noexcept {
    const uint64_t bits = spread(hash);
    const Block& block = up_to_date(bits);
    unsigned least = kMost;
    for (unsigned row = 0; row < kRows; ++row) {
      const uint64_t word = block.words[word_of(row, bits)];
      least = std::min(least, static_cast<unsigned>(word >> shift_of(row, bits)) & kMost);
    }
    return least;
  }

  // Halves all.
  void age() noexcept { ++age_; }

  [[nodiscard]] size_t memory_bytes() const noexcept {
    return blocks_.capacity() * sizeof(Block) + ages_.capacity() * sizeof(uint32_t);
  }

 private:
  static constexpr size_t kEntriesPerBlock = 4;
  static constexpr size_t kFewestBlocks = 16;
  static constexpr unsigned kRows = 4;  // of two words, 32 counters
  struct alignas(64) Block {
    std::array<uint64_t, 2 * kRows> words{};
  };

  static size_t blocks_for(size_t entries) noexcept {
    return std::bit_ceil(
        std::max((entries + kEntriesPerBlock - 1) / kEntriesPerBlock, kFewestBlocks));
  }
  // Whatever chose these keys may have chosen them by bits of the hash: a stripe, a sample.
  static uint64_t spread(uint64_t hash) noexcept {
    hash *= 0x9E3779B97F4A7C15ull;
    return hash ^ hash >> 32;
  }
  // The block by the low bits; a row's counter by five of the high ones.
  static unsigned counter_of(unsigned row, uint64_t bits) noexcept {
    return static_cast<unsigned>(bits >> (44 + 5 * row)) & 31;
  }
  static unsigned word_of(unsigned row, uint64_t bits) noexcept {
    return 2 * row + counter_of(row, bits) / 16;
  }
  static unsigned shift_of(unsigned row, uint64_t bits) noexcept {
    return counter_of(row, bits) % 16 * 4;
  }

  Block& up_to_date(uint64_t bits) noexcept {
    const size_t index = bits & (used_ - 1);
    Block& block = blocks_[index];
    const uint32_t halvings = std::min<uint32_t>(age_ - ages_[index], 4);
    if (halvings != 0) {
      const uint64_t kept = 0x1111111111111111ull * (kMost >> halvings);
      for (uint64_t& word : block.words) word = word >> halvings & kept;
      ages_[index] = age_;
    }
    return block;
  }

  std::vector<Block> blocks_;
  std::vector<uint32_t> ages_;  // how often each block was halved
  size_t used_ = 0;             // a power of two
  uint32_t age_ = 0;            // how often all should be
};

}  // namespace blatam
