// Prefix codes of at most kLongestCode bits for the symbols of a plane: their lengths, the
// canonical codes that follow from lengths, and the tables that a decoder looks codes up in. All of
// it is the same on every machine. Nothing allocates; all calls are safe from any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/lossless.h"

namespace blatam {

constexpr size_t kSymbols = 256;

// The code lengths with the least sum of counts[s] * lengths[s] among those of at most kLongestCode
// bits; 0 for a symbol that does not occur. Requires two symbols that do, and a sum of counts below
// 2^31.
void code_lengths(std::span<const uint32_t, kSymbols> counts,
                  std::span<uint8_t, kSymbols> lengths) noexcept;

// True if the lengths, each at most kLongestCode, are those of a complete code: every sequence of
// bits begins with exactly one code.
[[nodiscard]] bool complete_code(std::span<const uint8_t, kSymbols> lengths) noexcept;

// The codes as pack() takes them: canonical, shorter before longer, equal lengths in the order of
// their symbols, and turned round, so that a code's first bit is its lowest. Requires a complete
// code.
void canonical_codes(std::span<const uint8_t, kSymbols> lengths,
                     std::span<uint16_t, kSymbols> codes) noexcept;

// The table that unpack() takes. Requires a complete code.
void decode_table(std::span<const uint8_t, kSymbols> lengths, DecodeTable& table) noexcept;

}  // namespace blatam
