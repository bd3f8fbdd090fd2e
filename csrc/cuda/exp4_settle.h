// The escapes of `exp4`. They lie at the end of the payload, one chunk's after another's: the warp
// that settles a payload writes and reads them. Internal to the file that includes it.
#pragma once

#include "cuda/exp4_chunk.h"
#include "cuda/settle.h"

namespace blatam::cuda {
namespace {

struct Exp4;

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
