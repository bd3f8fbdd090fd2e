// CRC-32C: G. Castagnoli et al., "Optimization of Cyclic Redundancy-Check Codes with 24 and 32
// Parity Bits", IEEE Trans. Comm. 41(6), 1993; as used by RFC 3720. The portable form looks up
// eight bytes at a time in eight tables ("slicing-by-8": Kounavis and Berry, Intel 2005), each the
// one before advanced by a zero byte.
#include "core/crc32c.h"

#include <array>

#include "core/crc32c_polynomial.h"
#include "core/isa.h"

namespace blatam {

namespace {

using Tables = std::array<std::array<uint32_t, 256>, 8>;

constexpr Tables make_tables() {
  Tables tables{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = times_x(crc);
    tables[0][byte] = crc;
  }
  for (size_t zeros = 1; zeros < 8; ++zeros)
    for (size_t byte = 0; byte < 256; ++byte) {
      const uint32_t crc = tables[zeros - 1][byte];
      tables[zeros][byte] = crc >> 8 ^ tables[0][crc & 255];
    }
  return tables;
}

constexpr Tables kTables = make_tables();

uint32_t extend_portable(uint32_t crc_so_far, const void* data, size_t bytes) {
  const unsigned char* from = static_cast<const unsigned char*>(data);
  uint32_t crc = ~crc_so_far;
  for (; bytes >= 8; bytes -= 8, from += 8) {
    const uint32_t low =
        crc ^ (from[0] | static_cast<uint32_t>(from[1]) << 8 |
               static_cast<uint32_t>(from[2]) << 16 | static_cast<uint32_t>(from[3]) << 24);
    crc = kTables[7][low & 255] ^ kTables[6][low >> 8 & 255] ^ kTables[5][low >> 16 & 255] ^
          kTables[4][low >> 24] ^ kTables[3][from[4]] ^ kTables[2][from[5]] ^ kTables[1][from[6]] ^
          kTables[0][from[7]];
  }
  for (; bytes > 0; --bytes, ++from) crc = crc >> 8 ^ kTables[0][(crc ^ *from) & 255];
  return ~crc;
}

constexpr Crc32c kCrc32cPortable = {"baseline", extend_portable};

// x^(8 * 2^i): what 2^i bytes multiply by.
constexpr std::array<uint32_t, 64> kPastBytes = [] {
  std::array<uint32_t, 64> powers{};
  powers[0] = power_of_x(8);
  for (size_t i = 1; i < powers.size(); ++i)
    powers[i] = polynomial_product(powers[i - 1], powers[i - 1]);
  return powers;
}();

}  // namespace

std::span<const Crc32c* const> all_crc32c() noexcept {
#ifdef BLATAM_X86
  static constexpr std::array<const Crc32c*, 2> kAll = {&kCrc32cPortable, &kCrc32cSse42};
  return std::span(kAll).first(has_crc32c_instruction() ? 2 : 1);
#else
  static constexpr std::array<const Crc32c*, 1> kAll = {&kCrc32cPortable};
  return kAll;
#endif
}

uint32_t crc32c(uint32_t crc_so_far, const void* data, size_t bytes) noexcept {
  static const Crc32c& best = *all_crc32c().back();
  return best.extend(crc_so_far, data, bytes);
}

uint32_t crc32c_combine(uint32_t crc_a, uint32_t crc_b, uint64_t bytes_b) noexcept {
  for (size_t i = 0; bytes_b != 0; ++i, bytes_b >>= 1)
    if (bytes_b & 1) crc_a = polynomial_product(crc_a, kPastBytes[i]);
  return crc_a ^ crc_b;
}

}  // namespace blatam
