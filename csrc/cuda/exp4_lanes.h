// `exp4`, without loss (docs/LOSSLESS.md): a warp takes a chunk of 1,024 values, 256 at a time, and
// lays the chunk's body out in its scratch before it writes it. Bodies begin anywhere, so they are
// copied byte by byte, the lanes side by side. Escapes are exp4_settle.h's. Internal to the file
// that includes it.
#pragma once

#include "cuda/exp4_chunk.h"
#include "cuda/exp4_settle.h"

namespace blatam::cuda {
namespace {

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

}  // namespace
}  // namespace blatam::cuda
