// What follows the rows: the section of escapes at a payload's end, written or read by one warp for
// each payload, and the payload's size. It costs a launch and, where nothing escapes, nothing else.
// Internal to the file that includes it.
#pragma once

#include "cuda/cells.h"

namespace blatam::cuda {
namespace {

template <class Cell, class Units>
BLATAM_LANES void put_unit(const Plan& plan, uint32_t payload, const Units& units, uint32_t unit,
                           uint8_t* to) {
  BLATAM_ROLL
  for (uint32_t i = 0; i < units.length(unit); ++i) {
    const int64_t slot = units.slot(payload, unit, i);
    uint16_t pattern = 0;
    if (slot != kSkippedSlot)
      pattern = Cell::pattern(aligned_load<typename Cell::Bits>(
          value_at(plan, token_at(plan, payload, slot), units.head(unit, i), units.dim(unit, i),
                   sizeof(typename Cell::Bits))));
    store_bits(to + 2 * uint64_t{i}, pattern);
  }
}

template <class Cell, class Units>
BLATAM_LANES void take_unit(const Plan& plan, uint32_t payload, const Units& units, uint32_t unit,
                            const uint8_t* from) {
  BLATAM_ROLL
  for (uint32_t i = 0; i < units.length(unit); ++i) {
    const int64_t slot = slot_of(plan, payload, units.token(unit, i));
    if (slot == kSkippedSlot) continue;
    aligned_store<typename Cell::Bits>(
        value_at(plan, token_at(plan, payload, slot), units.head(unit, i), units.dim(unit, i),
                 sizeof(typename Cell::Bits)),
        Cell::bits(load_bits<uint16_t>(from + 2 * uint64_t{i})));
  }
}

// Units in turns of 32: calls visit(lane, unit, number of the escape, values of escapes before it)
// for those that escape. Returns their number and values by reference.
template <class Units, class Visit>
BLATAM_LANES void each_escape(Warp& warp, const Units& units, uint32_t& escapes, uint32_t& values,
                              const Visit& visit) {
  escapes = 0;
  values = 0;
  BLATAM_ROLL
  for (uint32_t first = 0; first < units.count(); first += kLanes) {
    Warp::PerLane<uint32_t> number;
    Warp::PerLane<uint32_t> before;
    warp.each([&](unsigned lane) {
      const uint32_t unit = first + lane;
      const bool escaped = unit < units.count() && units.escaped(unit);
      number[lane] = escaped;
      before[lane] = escaped ? units.length(unit) : 0;
    });
    const uint32_t more = warp.sum_before(number);
    const uint32_t more_values = warp.sum_before(before);
    if (more != 0) {
      warp.each([&](unsigned lane) {
        const uint32_t unit = first + lane;
        if (unit < units.count() && units.escaped(unit))
          visit(unit, escapes + number[lane], values + before[lane]);
      });
    }
    escapes += more;
    values += more_values;
  }
}

template <class Cell, class Units>
BLATAM_LANES void settle_stored_units(Warp& warp, const Plan& plan, uint32_t payload) {
  const uint32_t faults = plan.job.faults[payload];
  uint64_t bytes = plan.fixed_bytes;
  uint32_t left = faults & ~kEscapes;
  if ((faults & kEscapes) != 0 && left == 0) {
    uint8_t* const out = payload_at(plan, payload);
    const Units units(plan, out);
    uint32_t escapes;
    uint32_t values;
    each_escape(warp, units, escapes, values, [](uint32_t, uint32_t, uint32_t) {});
    bytes += 8 + 8 * uint64_t{escapes} + 2 * uint64_t{values};
    if (bytes > plan.job.payload_room) {
      left = kFaultRoom;
    } else {
      uint8_t* const section = out + plan.fixed_bytes;
      uint8_t* const first = section + 8 + 8 * uint64_t{escapes};
      warp.each([&](unsigned lane) {
        if (lane == 0) store_bits<uint64_t>(section, escapes);
      });
      each_escape(warp, units, escapes, values,
                  [&](uint32_t unit, uint32_t number, uint32_t before) {
                    store_bits<uint64_t>(section + 8 + 8 * uint64_t{number}, unit);
                    put_unit<Cell>(plan, payload, units, unit, first + 2 * uint64_t{before});
                  });
    }
  }
  warp.each([&](unsigned lane) {
    if (lane != 0) return;
    plan.job.bytes[payload] = bytes;
    plan.job.faults[payload] = left;
  });
}

// The section as take_escapes() in kernels/escapes.h reads it: nothing is believed before it is
// checked, and no value is written before all of it is.
template <class Cell, class Units>
BLATAM_LANES void settle_fetched_units(Warp& warp, const Plan& plan, uint32_t payload) {
  const uint64_t bytes = plan.job.bytes[payload];
  if (bytes == plan.fixed_bytes) return;
  const uint8_t* const section = payload_at(plan, payload) + plan.fixed_bytes;
  const Units units(plan, payload_at(plan, payload));
  const uint64_t room = bytes - plan.fixed_bytes;
  uint64_t escapes = 0;
  bool good = bytes > plan.fixed_bytes && bytes <= plan.job.payload_room && room >= 8;
  if (good) {
    escapes = load_bits<uint64_t>(section);
    good = escapes != 0 && escapes <= units.count() && escapes <= (room - 8) / 8;
  }
  const uint8_t* const index = section + 8;
  const uint8_t* const first = index + 8 * escapes;
  uint64_t values = 0;
  BLATAM_ROLL
  for (uint64_t turn = 0; good && turn < escapes; turn += kLanes) {
    Warp::PerLane<uint32_t> lengths;
    Warp::PerLane<bool> bad;
    warp.each([&](unsigned lane) {
      lengths[lane] = 0;
      bad[lane] = false;
      const uint64_t i = turn + lane;
      if (i >= escapes) return;
      const auto unit = load_bits<uint64_t>(index + 8 * i);
      bad[lane] =
          unit >= units.count() || (i != 0 && load_bits<uint64_t>(index + 8 * (i - 1)) >= unit);
      if (!bad[lane]) lengths[lane] = units.length(static_cast<uint32_t>(unit));
    });
    values += warp.sum_before(lengths);
    good = !warp.any(bad);
  }
  good = good && room - 8 - 8 * escapes == 2 * values;
  if (!good) {
    warp.each([&](unsigned lane) {
      if (lane == 0) add_bits(plan.job.faults + payload, kFaultDamage);
    });
    return;
  }
  values = 0;
  BLATAM_ROLL
  for (uint64_t turn = 0; turn < escapes; turn += kLanes) {
    Warp::PerLane<uint32_t> before;
    warp.each([&](unsigned lane) {
      const uint64_t i = turn + lane;
      before[lane] = 0;
      if (i < escapes)
        before[lane] = units.length(static_cast<uint32_t>(load_bits<uint64_t>(index + 8 * i)));
    });
    const uint32_t more = warp.sum_before(before);
    warp.each([&](unsigned lane) {
      const uint64_t i = turn + lane;
      if (i >= escapes) return;
      const auto unit = static_cast<uint32_t>(load_bits<uint64_t>(index + 8 * i));
      take_unit<Cell>(plan, payload, units, unit, first + 2 * (values + before[lane]));
    });
    values += more;
  }
}

// What a scheme's payloads need once their rows are done. Schemes whose escapes are no units have
// one of their own.
template <class Lanes, class Cell>
struct Settle {
  BLATAM_LANES void store(Warp& warp, const Plan& plan, uint32_t payload) {
    settle_stored_units<Cell, typename Lanes::Units>(warp, plan, payload);
  }
  BLATAM_LANES void fetch(Warp& warp, const Plan& plan, uint32_t payload) {
    settle_fetched_units<Cell, typename Lanes::Units>(warp, plan, payload);
  }
};

}  // namespace
}  // namespace blatam::cuda
