// CRC-32C (Castagnoli), the checksum of every record on disk and on the wire: it finds accidents at
// memory speed. Against an attacker use a keyed digest (digest.h). Values and arguments are
// finished checksums, as with zlib's crc32: start with 0, go on with the last result. All calls are
// safe from any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/crc32c_polynomial.h"

namespace blatam {

// The checksum of some bytes with checksum `crc_so_far`, followed by `bytes` bytes at `data`.
uint32_t crc32c(uint32_t crc_so_far, const void* data, size_t bytes) noexcept;

// The checksum of a || b, from the checksums of both and the length of b. About 35 ns for each
// set bit of the length.
uint32_t crc32c_combine(uint32_t crc_a, uint32_t crc_b, uint64_t bytes_b) noexcept;

// Every implementation this machine can run, the portable one first.
std::span<const Crc32c* const> all_crc32c() noexcept;

}  // namespace blatam
