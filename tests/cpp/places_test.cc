// The oracle is a map from key to place beside it, and a record header packed field by field.
#include "core/places.h"

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <random>
#include <vector>

#include "core/crc32c.h"

namespace blatam {
namespace {

Digest digest(uint64_t number) {
  Digest key;
  std::memcpy(key.bytes.data(), &number, sizeof(number));
  return key;
}

std::vector<uint8_t> header(uint64_t number, uint8_t kind, uint64_t payload, uint32_t tokens = 0,
                            uint8_t flags = 0) {
  std::vector<uint8_t> bytes(128);
  const uint8_t magic_and_version[] = {0x89, 'B', 'K', 'V', 1, 0};
  std::memcpy(bytes.data(), magic_and_version, 6);
  bytes[6] = kind;
  bytes[7] = flags;
  std::memcpy(bytes.data() + 8, &payload, 8);
  std::memcpy(bytes.data() + 16, &tokens, 4);
  std::memcpy(bytes.data() + 56, digest(number).bytes.data(), 32);
  const uint32_t crc = crc32c(0, bytes.data(), 124);
  std::memcpy(bytes.data() + 124, &crc, 4);
  return bytes;
}

TEST(Places, AgreeWithAMapUnderRandomOperations) {
  for (const uint64_t distinct : {5u, 100u, 100'000u}) {
    std::mt19937_64 random(distinct);
    Places places;
    std::map<uint64_t, std::pair<Place, bool>> model;
    for (int step = 0; step < 30'000; ++step) {
      const uint64_t number = random() % distinct;
      const Place place{1 + random() % 20, static_cast<uint32_t>(random() % 4 * 64),
                        static_cast<uint32_t>(128 + random() % 2 * 64)};
      const auto found = model.find(number);
      const bool there = found != model.end() && found->second.first == place;
      switch (random() % 8) {
        case 0:
          EXPECT_EQ(places.forget(digest(number)), model.erase(number) == 1);
          break;
        case 1:
          EXPECT_EQ(places.forget(digest(number), place), there);
          if (there) model.erase(number);
          break;
        case 2:
          places.use(digest(number), place);
          if (there) model[number].second = true;
          break;
        case 3:
          if (random() % 500 == 0) {
            const std::vector<uint64_t> gone = {place.segment, 7};
            const size_t before = model.size();
            std::erase_if(model, [&](const auto& each) {
              const uint64_t segment = each.second.first.segment;
              return segment == place.segment || segment == 7;
            });
            EXPECT_EQ(places.forget_segments(gone), before - model.size());
          }
          break;
        default:
          places.set(digest(number), place);
          model[number] = {place, false};
      }
      ASSERT_EQ(places.size(), model.size());
      const auto now = model.find(number);
      ASSERT_EQ(places.find(digest(number)),
                now == model.end() ? std::nullopt : std::optional(now->second.first));
      ASSERT_EQ(places.used(digest(number)), now != model.end() && now->second.second);
    }
    std::vector<uint8_t> saved(places.saved_bytes());
    EXPECT_EQ(places.save(saved), saved.size());
    Places again;
    ASSERT_TRUE(again.load(saved));
    for (const Places* each : {&places, &again}) {
      ASSERT_EQ(each->size(), model.size());
      for (const auto& [number, entry] : model) {
        EXPECT_EQ(each->find(digest(number)), entry.first);
        EXPECT_EQ(each->used(digest(number)), entry.second);
      }
      const auto order = each->in_order();
      for (size_t i = 1; i < order.size(); ++i) {
        const Place &a = order[i - 1].second, &b = order[i].second;
        EXPECT_LE(std::pair(a.segment, a.offset), std::pair(b.segment, b.offset));
      }
    }
  }
}

TEST(Places, AnEntryTakesAtMost64Bytes) {
  Places places;
  for (uint64_t number = 0; number < 300'000; ++number) {
    places.set(digest(number), {1, 64, 128});
    if (number >= 4096) {
      ASSERT_LE(places.memory_bytes(), 1024 * 64 + 64 * places.size());
    }
  }
}

TEST(Places, LoadRefusesWhatIsNoPlaceAndChangesNothing) {
  Places places;
  places.set(digest(1), {1, 64, 128});
  places.set(digest(2), {2, 0, 1u << 30});
  std::vector<uint8_t> saved(places.saved_bytes());
  ASSERT_EQ(places.save(saved), 96u);
  for (const size_t cut : {1u, 47u, 95u}) {
    Places other;
    EXPECT_FALSE(other.load(std::span(saved).first(cut)));
  }
  for (const auto& [at, byte] : std::map<size_t, uint8_t>{{32, 0}, {37, 1}, {40, 1}, {44, 3}}) {
    std::vector<uint8_t> bad = saved;
    for (const size_t entry : {0u, 48u}) {
      if (at == 32) std::memset(bad.data() + entry + 32, 0, 8);
      bad[entry + at] = byte;
    }
    Places other;
    EXPECT_FALSE(other.load(bad)) << at;
    EXPECT_EQ(other.size(), 0u);
  }
}

TEST(Places, TakeStopsAtTheFirstHeaderThatIsAnythingElse) {
  std::vector<uint8_t> window = header(1, 1, 0);
  const auto append = [&](const std::vector<uint8_t>& more, size_t body) {
    window.insert(window.end(), more.begin(), more.end());
    window.resize(window.size() + body);
  };
  append(header(2, 2, 100, 3), 64 + 128);
  append(header(1, 3, 0), 0);
  append(header(3, 1, 5, 0, 1), 64 + 64);  // with a MAC
  const size_t good = window.size();
  const std::vector<uint8_t> last = header(4, 1, 0);
  append(last, 0);
  const auto taken = [&](size_t bytes, uint64_t end) {
    Places places;
    const uint64_t reached = places.take(std::span(window).first(bytes), 9, 64, end);
    return std::pair(reached, places.size());
  };
  EXPECT_EQ(taken(window.size(), 1 << 20), std::pair(64 + window.size(), size_t{3}));
  Places places;
  places.take(window, 9, 64, 1 << 20);
  EXPECT_EQ(places.find(digest(1)), std::nullopt);
  EXPECT_EQ(places.find(digest(2)), (Place{9, 64 + 128, 320}));
  EXPECT_EQ(places.find(digest(3)), (Place{9, 64 + 128 + 320 + 128, 256}));
  EXPECT_EQ(places.find(digest(4)), (Place{9, static_cast<uint32_t>(64 + good), 128}));
  // A header that is cut, and a record that passes the end.
  EXPECT_EQ(taken(window.size() - 1, 1 << 20).first, 64 + good);
  EXPECT_EQ(taken(window.size(), 64 + window.size() - 1).first, 64 + good);
  EXPECT_EQ(taken(128, 64 + 127).first, 64u);
  // Any flipped bit of the last header.
  for (size_t bit = 0; bit < 1024; ++bit) {
    window[good + bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
    EXPECT_EQ(taken(window.size(), 1 << 20).first, 64 + good) << bit;
    window[good + bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
  }
  // Fields out of range under a checksum that agrees.
  for (const auto& bad : {header(5, 0, 0), header(5, 4, 0), header(5, 1, (1ull << 30) + 1),
                          header(5, 1, 0, 65537), header(5, 1, 0, 0, 2)}) {
    std::copy(bad.begin(), bad.end(), window.begin() + static_cast<std::ptrdiff_t>(good));
    EXPECT_EQ(taken(window.size(), 1 << 20).first, 64 + good);
  }
}

}  // namespace
}  // namespace blatam
