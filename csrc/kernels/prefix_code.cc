// The lengths come from package-merge (L. Larmore and D. Hirschberg, "A Fast Algorithm for Optimal
// Length-Limited Huffman Codes", J. ACM 37(3), 1990). Every symbol is a coin of the value of its
// count in each of kLongestCode denominations. From the smallest denomination up, coins are paired,
// the cheapest first, and the pairs join the coins of the next one. The 2 n - 2 cheapest items at
// the end are bought; how often a symbol's coins are among them is the length of its code. Only the
// order of coins and pairs has to be remembered: a bit for each item.
#include "kernels/prefix_code.h"

#include <algorithm>
#include <array>
#include <bitset>

namespace blatam {
namespace {

constexpr unsigned kMostInEntry = 6;

// The entry of DecodeTable::many for the codes in the bits of `index`, one after the other.
uint64_t entry_of(const uint16_t* one, size_t index) {
  uint64_t symbols = 0;
  uint64_t taken = 0;
  for (unsigned number = 0; number < kMostInEntry; ++number) {
    const unsigned first = one[index >> taken];
    symbols |= uint64_t{first & 255} << 8 * number;
    taken += first >> 8;
  }
  return symbols | taken << 48 | uint64_t{kMostInEntry} << 56;
}

// The entry for a symbol and those of another entry after it.
uint64_t before(uint16_t one, uint64_t after) {
  const uint64_t numbers = after & uint64_t{0xffff} << 48;
  const uint64_t symbols = (after << 16 >> 8) | (one & 255u);
  return symbols | (numbers + (uint64_t{one} >> 8 << 48) + (uint64_t{1} << 56));
}

struct Coin {
  uint32_t count;
  uint8_t symbol;
};

}  // namespace

void code_lengths(std::span<const uint32_t, kSymbols> counts,
                  std::span<uint8_t, kSymbols> lengths) noexcept {
  std::array<Coin, kSymbols> coins;
  size_t n = 0;
  for (size_t symbol = 0; symbol < kSymbols; ++symbol) {
    lengths[symbol] = 0;
    if (counts[symbol] != 0) coins[n++] = {counts[symbol], static_cast<uint8_t>(symbol)};
  }
  std::sort(coins.begin(), coins.begin() + static_cast<ptrdiff_t>(n),
            [](const Coin& a, const Coin& b) {
              return a.count != b.count ? a.count < b.count : a.symbol < b.symbol;
            });

  // items[level]: which of them, in ascending order, are pairs from the level below.
  std::array<std::bitset<2 * kSymbols>, kLongestCode> pairs_at;
  std::array<uint32_t, kSymbols> pairs;  // of the level below
  size_t pair_count = 0;
  for (std::bitset<2 * kSymbols>& is_pair : pairs_at) {
    std::array<uint32_t, 2 * kSymbols> items;
    size_t coin = 0;
    size_t pair = 0;
    for (size_t i = 0; i < n + pair_count; ++i) {
      // Of two that cost the same, the coin: what the page on codecs says, and other encoders need.
      const bool take_pair = coin == n || (pair < pair_count && pairs[pair] < coins[coin].count);
      is_pair[i] = take_pair;
      items[i] = take_pair ? pairs[pair++] : coins[coin++].count;
    }
    const size_t item_count = n + pair_count;
    pair_count = item_count / 2;
    for (size_t i = 0; i < pair_count; ++i) pairs[i] = items[2 * i] + items[2 * i + 1];
  }

  size_t bought = 2 * n - 2;
  for (size_t level = kLongestCode; level-- > 0 && bought > 0;) {
    size_t bought_pairs = 0;
    for (size_t i = 0; i < bought; ++i) bought_pairs += pairs_at[level][i];
    for (size_t i = 0; i < bought - bought_pairs; ++i) ++lengths[coins[i].symbol];
    bought = 2 * bought_pairs;
  }
}

bool complete_code(std::span<const uint8_t, kSymbols> lengths) noexcept {
  size_t used = 0;
  for (const uint8_t length : lengths)
    if (length != 0) used += kTableSize >> length;
  return used == kTableSize;
}

void canonical_codes(std::span<const uint8_t, kSymbols> lengths,
                     std::span<uint16_t, kSymbols> codes) noexcept {
  std::array<unsigned, kLongestCode + 1> next{};
  for (const uint8_t length : lengths)
    if (length != 0 && length < kLongestCode) ++next[length + 1u];
  for (size_t length = 2; length < next.size(); ++length)
    next[length] = (next[length] + next[length - 1]) << 1;
  // next[length] is now twice what all shorter codes take up, in units of that length.
  for (size_t symbol = 0; symbol < kSymbols; ++symbol) {
    const unsigned length = lengths[symbol];
    codes[symbol] = 0;
    if (length == 0) continue;
    unsigned turned = 0;
    for (unsigned bit = 0, code = next[length]++; bit < length; ++bit, code >>= 1)
      turned = turned << 1 | (code & 1);
    codes[symbol] = static_cast<uint16_t>(turned << 4 | length);
  }
}

void decode_table(std::span<const uint8_t, kSymbols> lengths, DecodeTable& table) noexcept {
  std::array<uint16_t, kSymbols> codes;
  canonical_codes(lengths, codes);
  for (size_t symbol = 0; symbol < kSymbols; ++symbol) {
    const unsigned length = codes[symbol] & 15u;
    if (length == 0) continue;
    for (size_t i = codes[symbol] >> 4; i < kTableSize; i += size_t{1} << length)
      table.one[i] = static_cast<uint16_t>(length << 8 | symbol);
  }
  // A number of k bits, of which nothing follows, is node 2^k + number of a tree whose root is 1:
  // taking a code's bits away is going up by as many levels, and to take more than there are leads
  // to node 0. From the root down, each node adds its first symbol to what an earlier one has
  // found.
  std::array<uint64_t, kTableSize> nodes;
  nodes[1] = 0;
  for (size_t level = 2; level <= kTableSize; level *= 2) {
    uint64_t* const here = level < kTableSize ? &nodes[level] : table.many;
    for (size_t i = 0; i < level; ++i) {
      const uint16_t first = table.one[i];
      const size_t node = (level + i) >> (first >> 8);
      if (node == 0) {
        here[i] = 0;
      } else {
        const uint64_t after = nodes[node];
        here[i] = after >> 56 < kMostInEntry ? before(first, after) : entry_of(table.one, i);
      }
    }
  }
}

}  // namespace blatam
