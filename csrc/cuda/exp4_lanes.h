// `exp4`, without loss (docs/LOSSLESS.md): a warp takes a chunk of 1,024 values in the order of the
// tensor, 256 at a time, and lays the chunk's body out in its scratch before it writes it. Bodies
// begin anywhere, so they are copied byte by byte, the lanes side by side. Escapes lie at the end
// of the payload, one chunk's after another's: the warp that settles a payload writes and reads
// them. Internal to the file that includes it.
#pragma once

#include "cuda/settle.h"
#include "cuda/token_lanes.h"

namespace blatam::cuda {
namespace {

constexpr uint32_t kChunkValues = 1024;
constexpr uint32_t kCodeBlockValues = 64;
constexpr uint32_t kTurnValues = kLanes * kLaneValues;
constexpr uint32_t kTurns = kChunkValues / kTurnValues;
constexpr uint32_t kLineBytes = 3;
constexpr uint32_t kStoredRaw = 0xffff;
constexpr uint32_t kEscapeCode = 15;

template <class T>
struct Exponent {
  static constexpr uint32_t kShift = 7;
  static constexpr uint32_t kMask = 255;
  static constexpr uint32_t kBlockBytes = 32;
};
template <>
struct Exponent<Fp16> {
  static constexpr uint32_t kShift = 10;
  static constexpr uint32_t kMask = 31;
  static constexpr uint32_t kBlockBytes = 56;
};

// Where the parts of a chunk lie.
template <class T>
struct ChunkParts {
  uint32_t count;
  uint32_t code_bytes;
  uint32_t excess;  // tops that have no place among the codes, where it is raw
  uint8_t* line;
  uint8_t* codes;
  uint8_t* rests;

  BLATAM_LANES uint32_t code_bytes_of(uint32_t values) {
    constexpr uint32_t kWhole = Exponent<T>::kBlockBytes;
    const uint32_t left = values % kCodeBlockValues;
    return values / kCodeBlockValues * kWhole + (left < kWhole ? left : kWhole);
  }
  BLATAM_MEMBER ChunkParts(const Plan& plan, uint8_t* payload, uint32_t chunk) {
    const uint32_t before = chunk * kChunkValues;
    const uint32_t left = plan.row_values - before;
    count = left < kChunkValues ? left : kChunkValues;
    code_bytes = code_bytes_of(count);
    excess = count - code_bytes;
    line = payload + 1 + uint64_t{kLineBytes} * chunk;
    codes = payload + 1 + uint64_t{kLineBytes} * plan.rows + code_bytes_of(before) + before;
    rests = codes + code_bytes;
  }
  BLATAM_MEMBER uint32_t stored() const { return line[1] | static_cast<uint32_t>(line[2]) << 8; }
  // Bytes of escapes that the line announces; more than any chunk has where that is impossible.
  BLATAM_MEMBER uint32_t escape_bytes() const {
    if (stored() == kStoredRaw) return excess;
    return 3 * stored() <= excess ? 3 * stored() : kChunkValues;
  }
  // The code of a value, and for fp16 three bits of its mantissa below.
  BLATAM_MEMBER uint32_t code(uint32_t i) const {
    const uint32_t block = i / kCodeBlockValues * Exponent<T>::kBlockBytes;
    const uint32_t in = i % kCodeBlockValues;
    const auto byte = [&](uint32_t at) -> uint32_t {
      return block + at < code_bytes ? codes[block + at] : 0;
    };
    if constexpr (Exponent<T>::kBlockBytes == 32) {
      return in < 32 ? byte(in) & 15u : byte(in - 32) >> 4;
    } else {
      if (in < 56) return byte(in) & 127u;
      uint32_t seven = 0;
      for (uint32_t g = 0; g < 7; ++g) seven |= (byte(8 * g + in - 56) >> 7) << g;
      return seven;
    }
  }
};

BLATAM_LANES uint32_t rest_of(uint16_t bits) { return (bits & 0x7fu) | (bits >> 8 & 0x80u); }
BLATAM_LANES uint16_t pattern_of(uint32_t top, uint32_t rest) {
  return static_cast<uint16_t>((rest & 0x80u) << 8 | (top & 0xffu) << 7 | (rest & 0x7fu));
}

// Where eight values from `value` on lie, the first `count` of the payload's; no token yet.
BLATAM_LANES Stretch flat_stretch(const Plan& plan, uint32_t value, uint32_t count,
                                  uint32_t* token) {
  const uint32_t row = value / plan.job.head_dim;
  *token = row / plan.job.kv_heads;
  return {nullptr, row - *token * plan.job.kv_heads, value - row * plan.job.head_dim, count};
}

// One value of the payload.
template <class Cell>
BLATAM_LANES uint16_t take_value(const Plan& plan, uint32_t payload, uint32_t value) {
  uint32_t token;
  const Stretch at = flat_stretch(plan, value, 1, &token);
  const int64_t slot = slot_of(plan, payload, token);
  if (slot == kSkippedSlot) return 0;
  return Cell::pattern(aligned_load<typename Cell::Bits>(
      value_at(plan, token_at(plan, payload, slot), at.head, at.dim, sizeof(typename Cell::Bits))));
}
template <class Cell>
BLATAM_LANES void put_value(const Plan& plan, uint32_t payload, uint32_t value, uint16_t pattern) {
  uint32_t token;
  const Stretch at = flat_stretch(plan, value, 1, &token);
  const int64_t slot = slot_of(plan, payload, token);
  if (slot == kSkippedSlot) return;
  aligned_store<typename Cell::Bits>(
      value_at(plan, token_at(plan, payload, slot), at.head, at.dim, sizeof(typename Cell::Bits)),
      Cell::bits(pattern));
}

struct Exp4 {
  // Codes, one a byte; rests; codes packed.
  static constexpr uint32_t kRestsAt = kChunkValues;
  static constexpr uint32_t kPackedAt = 2 * kChunkValues;
  static constexpr uint32_t kScratch = 3 * kChunkValues;

  template <class Cell>
  BLATAM_LANES Chunk take_eight(const Plan& plan, uint32_t payload, uint32_t value,
                                uint32_t count) {
    if (plan.vector) {  // all in one head
      uint32_t token;
      Stretch at = flat_stretch(plan, value, count, &token);
      const int64_t slot = slot_of(plan, payload, token);
      if (slot == kSkippedSlot) return Chunk{};
      at.token = token_at(plan, payload, slot);
      return load_chunk<Cell>(plan, at);
    }
    Chunk chunk = {};
    BLATAM_UNROLL
    for (uint32_t i = 0; i < kLaneValues; ++i)
      if (i < count) chunk.put(i, take_value<Cell>(plan, payload, value + i));
    return chunk;
  }

  template <class Cell>
  BLATAM_LANES void store(Warp& warp, const Plan& plan, uint32_t payload, uint32_t item) {
    using T = typename Cell::Type;
    using E = Exponent<T>;
    const ChunkParts<T> parts(plan, payload_at(plan, payload), item);
    struct Held {
      Chunk turns[kTurns];
    };
    Warp::PerLane<Held> held;
    Warp::PerLane<uint32_t> greatest;
    warp.each([&](unsigned lane) {
      greatest[lane] = 0;
      BLATAM_UNROLL
      for (uint32_t turn = 0; turn < kTurns; ++turn) {
        const uint32_t first = turn * kTurnValues + lane * kLaneValues;
        held[lane].turns[turn] = Chunk{};
        if (first >= parts.count) continue;
        const uint32_t left = parts.count - first;
        held[lane].turns[turn] = take_eight<Cell>(plan, payload, item * kChunkValues + first,
                                                  left < kLaneValues ? left : kLaneValues);
        BLATAM_UNROLL
        for (uint32_t i = 0; i < kLaneValues; ++i) {
          const uint32_t magnitude = held[lane].turns[turn].get(i) & 0x7fffu;
          greatest[lane] = magnitude > greatest[lane] ? magnitude : greatest[lane];
        }
      }
    });
    warp.greatest(greatest, kLanes);
    Warp::PerLane<uint32_t> escapes;
    warp.each([&](unsigned lane) {
      escapes[lane] = 0;
      const uint32_t largest = greatest[lane] >> E::kShift;
      BLATAM_UNROLL
      for (uint32_t turn = 0; turn < kTurns; ++turn) {
        const uint32_t first = turn * kTurnValues + lane * kLaneValues;
        uint64_t codes = 0;
        uint64_t rests = 0;
        BLATAM_UNROLL
        for (uint32_t i = 0; i < kLaneValues; ++i) {
          if (first + i >= parts.count) break;
          const uint16_t bits = held[lane].turns[turn].get(i);
          const uint32_t below = largest - (bits >> E::kShift & E::kMask);
          const uint32_t code = below < kEscapeCode ? below : kEscapeCode;
          escapes[lane] += code == kEscapeCode;
          const uint32_t whole = E::kBlockBytes == 32 ? code : code << 3 | (bits >> 7 & 7u);
          codes |= static_cast<uint64_t>(whole) << (8 * i);
          rests |= static_cast<uint64_t>(rest_of(bits)) << (8 * i);
        }
        aligned_store(warp.scratch() + first, codes);
        aligned_store(warp.scratch() + kRestsAt + first, rests);
      }
    });
    const uint32_t found = warp.sum_before(escapes);
    const bool raw = 3 * found > parts.excess;
    warp.each([&](unsigned lane) {
      uint8_t* const packed = warp.scratch() + kPackedAt;
      if (raw) {  // the tops where the codes would be
        BLATAM_UNROLL
        for (uint32_t turn = 0; turn < kTurns; ++turn) {
          const uint32_t first = turn * kTurnValues + lane * kLaneValues;
          uint64_t tops = 0;
          BLATAM_UNROLL
          for (uint32_t i = 0; i < kLaneValues; ++i)
            tops |= static_cast<uint64_t>(held[lane].turns[turn].get(i) >> 7 & 0xffu) << (8 * i);
          aligned_store(packed + first, tops);
        }
      } else {
        const uint8_t* const codes = warp.scratch();
        for (uint32_t at = lane; at < parts.code_bytes; at += kLanes) {
          const uint32_t block = at / E::kBlockBytes;
          const uint32_t in = at - block * E::kBlockBytes;
          const uint8_t* const from = codes + block * kCodeBlockValues;
          uint32_t byte = from[in];
          if constexpr (E::kBlockBytes == 32) {
            byte |= static_cast<uint32_t>(from[in + 32]) << 4;
          } else {
            byte |= (static_cast<uint32_t>(from[56 + in % 8]) >> (in / 8) & 1u) << 7;
          }
          packed[at] = static_cast<uint8_t>(byte);
        }
      }
      if (lane == 0) {
        const uint32_t stored = raw ? kStoredRaw : found;
        parts.line[0] = static_cast<uint8_t>(greatest[lane] >> E::kShift);
        parts.line[1] = static_cast<uint8_t>(stored);
        parts.line[2] = static_cast<uint8_t>(stored >> 8);
      }
    });
    warp.each([&](unsigned lane) {
      for (uint32_t i = lane; i < parts.code_bytes; i += kLanes)
        parts.codes[i] = warp.scratch()[kPackedAt + i];
      for (uint32_t i = lane; i < parts.count; i += kLanes)
        parts.rests[i] = warp.scratch()[kRestsAt + i];
    });
  }

  // All values but those that escape, and what can be said of a chunk by itself.
  template <class Cell>
  BLATAM_LANES void fetch(Warp& warp, const Plan& plan, uint32_t payload, uint32_t item) {
    using T = typename Cell::Type;
    using E = Exponent<T>;
    const ChunkParts<T> parts(plan, payload_at(plan, payload), item);
    const uint32_t stored = parts.stored();
    const bool raw = stored == kStoredRaw;
    const uint32_t largest = parts.line[0];
    Warp::PerLane<uint32_t> escapes;
    Warp::PerLane<bool> bad;
    warp.each([&](unsigned lane) {
      escapes[lane] = 0;
      bad[lane] = false;
      for (uint32_t first = lane * kLaneValues; first < parts.count; first += kTurnValues) {
        const uint32_t left = parts.count - first;
        const uint32_t count = left < kLaneValues ? left : kLaneValues;
        Chunk chunk = {};
        BLATAM_UNROLL
        for (uint32_t i = 0; i < kLaneValues; ++i) {
          if (i >= count) break;
          uint32_t top;
          if (raw) {
            top = first + i < parts.code_bytes ? parts.codes[first + i] : 0;
          } else {
            const uint32_t code = parts.code(first + i);
            escapes[lane] += (E::kBlockBytes == 32 ? code : code >> 3) == kEscapeCode;
            top = E::kBlockBytes == 32 ? largest - code
                                       : ((largest << 3) - (code & 0x78u)) | (code & 7u);
          }
          chunk.put(i, pattern_of(top, parts.rests[first + i]));
        }
        put_eight<Cell>(plan, payload, item * kChunkValues + first, count, chunk);
      }
      // What the last block lacks must be zeros.
      const uint32_t end =
          (parts.count + kCodeBlockValues - 1) / kCodeBlockValues * kCodeBlockValues;
      for (uint32_t i = parts.count + lane; i < end && !raw; i += kLanes)
        bad[lane] = bad[lane] || parts.code(i) != 0;
    });
    const bool damaged = warp.any(bad) || (warp.sum_before(escapes) != stored && !raw);
    warp.each([&](unsigned lane) {
      if (lane == 0 && damaged) add_bits(plan.job.faults + payload, kFaultDamage);
    });
  }

  template <class Cell>
  BLATAM_LANES void put_eight(const Plan& plan, uint32_t payload, uint32_t value, uint32_t count,
                              const Chunk& chunk) {
    if (plan.vector) {
      uint32_t token;
      Stretch at = flat_stretch(plan, value, count, &token);
      const int64_t slot = slot_of(plan, payload, token);
      if (slot == kSkippedSlot) return;
      at.token = token_at(plan, payload, slot);
      return store_chunk<Cell>(plan, at, chunk);
    }
    BLATAM_UNROLL
    for (uint32_t i = 0; i < kLaneValues; ++i)
      if (i < count) put_value<Cell>(plan, payload, value + i, chunk.get(i));
  }
};

// Calls visit(chunk, where its escapes begin) for every chunk that has some, one after the other;
// the answer is where the last one's end. More than `most` bytes of a chunk are impossible.
template <class T, class Visit>
BLATAM_LANES uint64_t each_escaped_chunk(Warp& warp, const Plan& plan, uint8_t* payload,
                                         bool& possible, const Visit& visit) {
  uint64_t at = plan.fixed_bytes;
  possible = true;
  BLATAM_ROLL
  for (uint32_t first = 0; first < plan.rows; first += kLanes) {
    const uint32_t left = plan.rows - first;
    for (uint32_t i = 0; i < (left < kLanes ? left : kLanes); ++i) {
      const ChunkParts<T> parts(plan, payload, first + i);
      const uint32_t bytes = parts.escape_bytes();
      if (bytes == kChunkValues) possible = false;
      if (bytes != 0 && possible) visit(first + i, at);
      at += bytes;
    }
  }
  warp.each([](unsigned) {});
  return at;
}

template <class Cell>
struct Settle<Exp4, Cell> {
  using T = typename Cell::Type;
  using E = Exponent<T>;

  BLATAM_LANES void store(Warp& warp, const Plan& plan, uint32_t payload) {
    uint8_t* const out = payload_at(plan, payload);
    uint32_t left = plan.job.faults[payload];
    bool possible;
    const uint64_t bytes =
        each_escaped_chunk<T>(warp, plan, out, possible, [](uint32_t, uint64_t) {});
    if (bytes > plan.job.payload_room) left |= kFaultRoom;
    if (bytes > plan.fixed_bytes && left == 0)
      each_escaped_chunk<T>(warp, plan, out, possible, [&](uint32_t chunk, uint64_t at) {
        put_escapes_of(warp, plan, payload, chunk, out + at);
      });
    warp.each([&](unsigned lane) {
      if (lane != 0) return;
      out[0] = 0;  // bytes of tails, which 16-bit types have not
      plan.job.bytes[payload] = bytes;
      plan.job.faults[payload] = left;
    });
  }

  BLATAM_LANES void put_escapes_of(Warp& warp, const Plan& plan, uint32_t payload, uint32_t chunk,
                                   uint8_t* to) {
    const ChunkParts<T> parts(plan, payload_at(plan, payload), chunk);
    const bool raw = parts.stored() == kStoredRaw;
    uint32_t done = 0;
    BLATAM_ROLL
    for (uint32_t first = 0; first < parts.count; first += kLanes) {
      Warp::PerLane<uint32_t> number;
      Warp::PerLane<uint16_t> bits;
      warp.each([&](unsigned lane) {
        const uint32_t i = first + lane;
        number[lane] = 0;
        bits[lane] = 0;
        if (i >= parts.count) return;
        bits[lane] = take_value<Cell>(plan, payload, chunk * kChunkValues + i);
        if (raw) {
          if (i >= parts.code_bytes)
            to[i - parts.code_bytes] = static_cast<uint8_t>(bits[lane] >> 7);
        } else {
          const uint32_t exponent = bits[lane] >> E::kShift & E::kMask;
          number[lane] = parts.line[0] - exponent >= kEscapeCode;
        }
      });
      Warp::PerLane<uint32_t> before = number;
      const uint32_t more = warp.sum_before(before);
      warp.each([&](unsigned lane) {
        if (number[lane] == 0) return;
        uint8_t* const entry = to + 3 * (done + before[lane]);
        const uint32_t i = first + lane;
        entry[0] = static_cast<uint8_t>(i);
        entry[1] = static_cast<uint8_t>(i >> 8);
        entry[2] = static_cast<uint8_t>(bits[lane] >> E::kShift & E::kMask);
      });
      done += more;
    }
  }

  BLATAM_LANES void fetch(Warp& warp, const Plan& plan, uint32_t payload) {
    uint8_t* const in = payload_at(plan, payload);
    const uint64_t bytes = plan.job.bytes[payload];
    bool possible;
    const uint64_t end = each_escaped_chunk<T>(warp, plan, in, possible, [](uint32_t, uint64_t) {});
    Warp::PerLane<bool> bad;
    warp.each([&](unsigned lane) {
      bad[lane] = in[0] != 0 || !possible || bytes != end || bytes > plan.job.payload_room;
    });
    if (!warp.any(bad) && end > plan.fixed_bytes)
      each_escaped_chunk<T>(warp, plan, in, possible, [&](uint32_t chunk, uint64_t at) {
        take_escapes_of(warp, plan, payload, chunk, in + at, bad);
      });
    if (!warp.any(bad)) return;
    warp.each([&](unsigned lane) {
      if (lane == 0) add_bits(plan.job.faults + payload, kFaultDamage);
    });
  }

  BLATAM_LANES void take_escapes_of(Warp& warp, const Plan& plan, uint32_t payload, uint32_t chunk,
                                    const uint8_t* from, Warp::PerLane<bool>& bad) {
    const ChunkParts<T> parts(plan, payload_at(plan, payload), chunk);
    const bool raw = parts.stored() == kStoredRaw;
    const uint32_t count = raw ? parts.excess : parts.stored();
    warp.each([&](unsigned lane) {
      BLATAM_ROLL
      for (uint32_t k = lane; k < count; k += kLanes) {
        if (raw) {
          const uint32_t i = parts.code_bytes + k;
          put_value<Cell>(plan, payload, chunk * kChunkValues + i,
                          pattern_of(from[k], parts.rests[i]));
          continue;
        }
        const uint8_t* const entry = from + 3 * k;
        const uint32_t i = entry[0] | static_cast<uint32_t>(entry[1]) << 8;
        const uint32_t exponent = entry[2];
        const bool ascends = k == 0 || (entry[-3] | static_cast<uint32_t>(entry[-2]) << 8) < i;
        const uint32_t code = i < parts.count ? parts.code(i) : 0;
        if (!ascends || i >= parts.count || exponent > E::kMask ||
            (E::kBlockBytes == 32 ? code : code >> 3) != kEscapeCode) {
          bad[lane] = true;
          continue;
        }
        const uint32_t top = E::kBlockBytes == 32 ? exponent : exponent << 3 | (code & 7u);
        put_value<Cell>(plan, payload, chunk * kChunkValues + i, pattern_of(top, parts.rests[i]));
      }
    });
  }
};

}  // namespace
}  // namespace blatam::cuda
