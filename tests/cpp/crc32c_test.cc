// The oracle is the definition, one bit at a time, and the vectors of RFC 3720, appendix B.4.
#include "core/crc32c.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <span>
#include <string_view>
#include <vector>

namespace blatam {
namespace {

using Bytes = std::vector<uint8_t>;

uint32_t bit_by_bit(std::span<const uint8_t> data) {
  uint32_t crc = 0xffffffffu;
  for (const uint8_t byte : data) {
    crc ^= byte;
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
  }
  return ~crc;
}

Bytes random_bytes(size_t bytes) {
  std::mt19937_64 random(bytes);
  Bytes out(bytes);
  for (uint8_t& byte : out) byte = static_cast<uint8_t>(random());
  return out;
}

TEST(Crc32c, EqualsTheVectorsOfRfc3720) {
  Bytes up(32);
  Bytes down(32);
  for (uint8_t i = 0; i < 32; ++i) {
    up[i] = i;
    down[i] = static_cast<uint8_t>(31 - i);
  }
  Bytes command(48, 0);  // an iSCSI SCSI Read (10) command
  command[0] = 0x01;
  command[1] = 0xc0;
  command[16] = 0x14;
  command[22] = 0x04;
  command[27] = 0x14;
  command[31] = 0x18;
  command[32] = 0x28;
  command[40] = 0x02;
  for (const Crc32c* implementation : all_crc32c()) {
    const auto crc = [&](const Bytes& data) {
      return implementation->extend(0, data.data(), data.size());
    };
    EXPECT_EQ(crc(Bytes(32, 0x00)), 0x8a9136aau) << implementation->isa;
    EXPECT_EQ(crc(Bytes(32, 0xff)), 0x62a8ab43u) << implementation->isa;
    EXPECT_EQ(crc(up), 0x46dd794eu) << implementation->isa;
    EXPECT_EQ(crc(down), 0x113fdb5cu) << implementation->isa;
    EXPECT_EQ(crc(command), 0xd9963a56u) << implementation->isa;
  }
  const std::string_view digits = "123456789";
  EXPECT_EQ(crc32c(0, digits.data(), digits.size()), 0xe3069283u);
}

TEST(Crc32c, EqualsTheDefinitionAtEveryLengthAndAlignment) {
  const Bytes data = random_bytes(1108);
  for (size_t bytes = 0; bytes <= 1100; ++bytes)
    for (size_t start = 0; start < 8; start += bytes < 64 ? 1 : 3) {
      const auto piece = std::span(data).subspan(start, bytes);
      const uint32_t expected = bit_by_bit(piece);
      for (const Crc32c* implementation : all_crc32c())
        ASSERT_EQ(implementation->extend(0, piece.data(), bytes), expected)
            << implementation->isa << " " << bytes << " bytes from " << start;
    }
}

TEST(Crc32c, EqualsTheDefinitionAroundWholeStreams) {
  const Bytes data = random_bytes(3 * 1360 * 3 + 520);
  for (const size_t about : {3u * 1360, 3u * 1360 + 3 * 168, 6u * 1360, 9u * 1360 + 500})
    for (size_t bytes = about - 12; bytes <= about + 12; ++bytes)
      for (const Crc32c* implementation : all_crc32c())
        ASSERT_EQ(implementation->extend(0, data.data(), bytes),
                  bit_by_bit(std::span(data).first(bytes)))
            << implementation->isa << " " << bytes;
}

TEST(Crc32c, EqualsTheDefinitionWhereLongStreamsBegin) {
  constexpr size_t kLonger = 3 * 16384;
  constexpr size_t kLongest = 3 * 65536;
  const Bytes data = random_bytes(2 * kLongest + kLonger + 3 * 1360 + 3 * 168 + 11);
  for (const size_t bytes : {kLonger - 1, kLonger, kLonger + 9, kLongest - 1, kLongest,
                             kLongest + kLonger + 1, data.size()})
    for (const Crc32c* implementation : all_crc32c())
      ASSERT_EQ(implementation->extend(0, data.data(), bytes),
                bit_by_bit(std::span(data).first(bytes)))
          << implementation->isa << " " << bytes;
}

TEST(Crc32c, PiecesExtendToTheWhole) {
  const Bytes data = random_bytes(9000);
  std::mt19937_64 random(1);
  for (const Crc32c* implementation : all_crc32c()) {
    const uint32_t whole = implementation->extend(0, data.data(), data.size());
    for (int round = 0; round < 50; ++round) {
      uint32_t crc = 0;
      for (size_t start = 0; start < data.size();) {
        const size_t bytes = std::min(data.size() - start, random() % 5000);
        crc = implementation->extend(crc, data.data() + start, bytes);
        start += bytes;
      }
      ASSERT_EQ(crc, whole) << implementation->isa;
    }
  }
}

TEST(Crc32c, ChecksumsOfTwoHalvesCombine) {
  const Bytes data = random_bytes(5000);
  const uint32_t whole = crc32c(0, data.data(), data.size());
  for (size_t cut = 0; cut <= data.size(); cut += cut < 100 ? 1 : 97) {
    const uint32_t a = crc32c(0, data.data(), cut);
    const uint32_t b = crc32c(0, data.data() + cut, data.size() - cut);
    ASSERT_EQ(crc32c_combine(a, b, data.size() - cut), whole) << cut;
  }
}

TEST(Crc32c, CombineTakesLengthsBeyondFourGigabytes) {
  // 64 GiB of zeros after some data: at once, and in 2^16 steps of a mebibyte.
  const uint32_t data = 0x12345678u;
  const uint64_t mebibyte = uint64_t{1} << 20;
  const uint32_t zeros = bit_by_bit(Bytes(mebibyte, 0));
  uint32_t many_zeros = zeros;
  for (uint64_t bytes = mebibyte; bytes < mebibyte << 16; bytes *= 2)
    many_zeros = crc32c_combine(many_zeros, many_zeros, bytes);
  uint32_t stepwise = data;
  for (int i = 0; i < 1 << 16; ++i) stepwise = crc32c_combine(stepwise, zeros, mebibyte);
  EXPECT_EQ(crc32c_combine(data, many_zeros, mebibyte << 16), stepwise);
  EXPECT_EQ(crc32c_combine(data, 0, 0), data);
}

TEST(Crc32c, EveryFlippedBitIsSeen) {
  Bytes data = random_bytes(600);
  const uint32_t crc = crc32c(0, data.data(), data.size());
  for (size_t bit = 0; bit < 8 * data.size(); ++bit) {
    data[bit / 8] ^= static_cast<uint8_t>(1u << bit % 8);
    EXPECT_NE(crc32c(0, data.data(), data.size()), crc) << bit;
    data[bit / 8] ^= static_cast<uint8_t>(1u << bit % 8);
  }
}

}  // namespace
}  // namespace blatam
