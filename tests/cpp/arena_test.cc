#include "core/arena.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstring>
#include <map>
#include <new>
#include <random>
#include <thread>
#include <vector>

namespace blatam {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;

// What the arena takes of the machine.
uint64_t resident(const Arena& arena) {
  const auto all = arena.addresses();
  std::vector<unsigned char> pages(all.size() / Arena::kPage);
  EXPECT_EQ(mincore(const_cast<uint8_t*>(all.data()), all.size(), pages.data()), 0);
  uint64_t count = 0;
  for (const unsigned char page : pages) count += page & 1;
  return count * Arena::kPage;
}

void fill(const Arena::Piece& piece, int value) { std::memset(piece.data, value, piece.bytes); }

TEST(Arena, LargePiecesAreWholePagesAndSmallOnesLines) {
  Arena arena(8 * kMiB, kMiB);
  const Arena::Piece small = arena.take(100), large = arena.take(Arena::kLarge + 1);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(small.data) % Arena::kAlignment, 0u);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(large.data) % Arena::kPage, 0u);
  EXPECT_EQ(large.bytes, Arena::kLarge + 1);
  EXPECT_EQ(arena.taken_bytes(), 128 + Arena::kLarge + Arena::kPage);
  EXPECT_EQ(arena.taken_bytes(), Arena::rounded(100) + Arena::rounded(Arena::kLarge + 1));
  arena.give(small);
  arena.give(large);
  EXPECT_EQ(arena.taken_bytes(), 0u);
}

TEST(Arena, WhatIsGivenBackIsTakenAgainFirst) {
  Arena arena(64 * kMiB, kMiB);
  const Arena::Piece piece = arena.take(kMiB);
  arena.give(piece);
  EXPECT_EQ(arena.warm_bytes(), kMiB);
  const Arena::Piece again = arena.take(kMiB);
  EXPECT_EQ(again.data, piece.data);
  EXPECT_EQ(arena.warm_bytes(), 0u);
  arena.give(again);
}

TEST(Arena, MemoryBeyondTheSpareReturnsToTheSystem) {
  Arena arena(64 * kMiB, kMiB);
  std::vector<Arena::Piece> pieces;
  for (int i = 0; i < 16; ++i) {
    pieces.push_back(arena.take(kMiB));
    fill(pieces.back(), i + 1);
  }
  EXPECT_GE(resident(arena), 16 * kMiB);
  for (size_t i = 0; i < pieces.size(); i += 2) arena.give(pieces[i]);
  EXPECT_LE(resident(arena), 9 * kMiB);
  for (size_t i = 1; i < pieces.size(); i += 2) {
    EXPECT_EQ(pieces[i].data[kMiB - 1], i + 1);
    arena.give(pieces[i]);
  }
  EXPECT_LE(resident(arena), kMiB);
  // And all of it is one again.
  const Arena::Piece most = arena.take(60 * kMiB);
  EXPECT_NE(most.data, nullptr);
  arena.give(most);
}

TEST(Arena, APieceGivesBackItsEnd) {
  Arena arena(8 * kMiB, 8 * kMiB);
  Arena::Piece piece = arena.take(kMiB);
  fill(piece, 7);
  arena.shrink(piece, 100'000);
  EXPECT_EQ(piece.bytes, 100'000u);
  EXPECT_EQ(arena.taken_bytes(), Arena::rounded(100'000));
  EXPECT_EQ(piece.data[99'999], 7);
  const Arena::Piece next = arena.take(kMiB / 2);
  EXPECT_EQ(next.data, piece.data + Arena::rounded(100'000));
  arena.shrink(piece, 0);
  EXPECT_EQ(arena.taken_bytes(), Arena::kAlignment + kMiB / 2);
  arena.give(piece);
  arena.give(next);
}

TEST(Arena, WhereThereIsNoPlaceThereIsNoPiece) {
  Arena arena(kMiB, 0);
  EXPECT_EQ(arena.take(2 * kMiB).data, nullptr);
  EXPECT_EQ(arena.take(SIZE_MAX).data, nullptr);
  const Arena::Piece all = arena.take(kMiB);
  EXPECT_EQ(arena.take(1).data, nullptr);
  arena.give(all);
  EXPECT_THROW(Arena(0, 0), std::bad_alloc);
  EXPECT_THROW(Arena(uint64_t{1} << 62, 0), std::bad_alloc);
}

// Beside a map of what is taken: no two overlap, none changes, sums agree, the bound holds.
TEST(Arena, HoldsTogetherUnderRandomCalls) {
  for (const uint64_t spare : {uint64_t{0}, 256 * uint64_t{1024}, 16 * kMiB}) {
    std::mt19937 random(3);
    const auto below = [&](size_t n) { return static_cast<size_t>(random()) % n; };
    Arena arena(64 * kMiB, spare);
    struct Taken {
      Arena::Piece piece;
      int value;
    };
    std::map<const uint8_t*, Taken> taken;
    uint64_t sum = 0;
    const auto stretch = [](const Taken& each) { return Arena::rounded(each.piece.bytes); };
    for (int round = 0; round < 4000; ++round) {
      const auto any = [&] {
        auto at = taken.begin();
        std::advance(at, static_cast<std::ptrdiff_t>(below(taken.size())));
        return at;
      };
      if (taken.empty() || (taken.size() < 100 && below(3) != 0)) {
        const size_t bytes = below(2) == 0 ? below(3000) : below(300'000);
        const Taken made{arena.take(bytes), static_cast<int>(below(255))};
        ASSERT_NE(made.piece.data, nullptr);
        fill(made.piece, made.value);
        const auto after = taken.upper_bound(made.piece.data);
        if (after != taken.end()) {
          ASSERT_LE(made.piece.data + stretch(made), after->first);
        }
        if (after != taken.begin()) {
          const auto before = std::prev(after);
          ASSERT_LE(before->first + stretch(before->second), made.piece.data);
        }
        sum += stretch(made);
        taken.emplace(made.piece.data, made);
      } else if (below(4) == 0) {
        Taken& each = any()->second;
        sum -= stretch(each);
        arena.shrink(each.piece, below(each.piece.bytes + 1));
        sum += stretch(each);
      } else {
        const auto at = any();
        const Arena::Piece piece = at->second.piece;
        for (size_t i = 0; i < piece.bytes; i += 511) ASSERT_EQ(piece.data[i], at->second.value);
        sum -= stretch(at->second);
        arena.give(piece);
        taken.erase(at);
      }
      ASSERT_EQ(arena.taken_bytes(), sum);
      ASSERT_LE(arena.warm_bytes(), spare);
      // Of a stretch that returned a page on each side may stay.
      if (round % 500 == 0) {
        ASSERT_LE(resident(arena), sum + spare + (2 * taken.size() + 2) * Arena::kPage);
      }
    }
    for (const auto& [data, each] : taken) arena.give(each.piece);
    ASSERT_EQ(arena.taken_bytes(), 0u);
  }
}

TEST(Arena, ThreadsKeepOutOfEachOthersPieces) {
  Arena arena(256 * kMiB, kMiB);
  const auto work = [&](int value) {
    std::mt19937 random(static_cast<unsigned>(value));
    std::vector<Arena::Piece> own;
    for (int round = 0; round < 500; ++round) {
      if (own.size() < 20) {
        own.push_back(arena.take(random() % 100'000));
        fill(own.back(), value);
      } else {
        const size_t at = random() % own.size();
        for (size_t i = 0; i < own[at].bytes; ++i) ASSERT_EQ(own[at].data[i], value);
        arena.give(own[at]);
        own[at] = own.back();
        own.pop_back();
      }
    }
    for (const Arena::Piece& piece : own) arena.give(piece);
  };
  std::vector<std::thread> threads;
  for (int value = 1; value <= 4; ++value) threads.emplace_back(work, value);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(arena.taken_bytes(), 0u);
}

}  // namespace
}  // namespace blatam
