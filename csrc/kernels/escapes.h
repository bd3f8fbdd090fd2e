// Values that a scheme cannot carry are stored as they are, in a section at the end of the payload:
// the number of units that escape, their indices in ascending order (both as 64-bit integers), then
// the values of each unit, one unit after the other. A payload without escapes has no section.
//
// What a unit is, a scheme says by a type with
//   uint64_t count()              how many there are
//   uint64_t length(unit)         values in one
//   Cell cell(unit, i)            where its i-th value is
#pragma once

#include <cstdint>
#include <cstring>
#include <span>

#include "kernels/arithmetic.h"
#include "kernels/tensor.h"

namespace blatam {

struct Cell {
  uint64_t token;
  uint64_t head;
  uint64_t dim;
};

// Appends the section for the units of which flagged(unit) is true after the first `fixed` bytes of
// `payload`, where there is room. Returns the bytes of the whole payload.
template <class Units, class Flagged>
uint64_t put_escapes(const Source& source, const Units& units, const Flagged& flagged,
                     std::span<uint8_t> payload, uint64_t fixed) {
  const uint64_t size = dtype_bytes(source.dtype);
  uint64_t count = 0;
  uint64_t values = 0;
  for (uint64_t unit = 0; unit < units.count(); ++unit) {
    if (!flagged(unit)) continue;
    ++count;
    values += units.length(unit);
  }
  const uint64_t bytes = fixed + 8 + 8 * count + size * values;
  if (bytes > payload.size()) return bytes;
  uint8_t* index = payload.data() + fixed;
  uint8_t* value = index + 8 + 8 * count;
  store_bits<uint64_t>(index, count);
  for (uint64_t unit = 0; unit < units.count(); ++unit) {
    if (!flagged(unit)) continue;
    index += 8;
    store_bits<uint64_t>(index, unit);
    for (uint64_t i = 0; i < units.length(unit); ++i, value += size) {
      const Cell cell = units.cell(unit, i);
      std::memcpy(value, source.at(cell.token, cell.head, cell.dim), size);
    }
  }
  return bytes;
}

// Writes the values of a section over what was decoded. Returns nullptr, or what is wrong with it.
template <class Units>
const char* take_escapes(std::span<const uint8_t> section, const Units& units,
                         const Target& target) {
  if (section.empty()) return nullptr;
  const uint64_t size = dtype_bytes(target.dtype);
  if (section.size() < 8) return "a section of escapes is cut short";
  const auto count = load_bits<uint64_t>(section.data());
  if (count == 0 || count > units.count() || count > (section.size() - 8) / 8)
    return "an impossible number of escapes";
  const uint8_t* index = section.data() + 8;
  const uint8_t* value = index + 8 * count;
  uint64_t left = section.size() - 8 - 8 * count;
  uint64_t next = 0;
  for (uint64_t i = 0; i < count; ++i, index += 8) {
    const auto unit = load_bits<uint64_t>(index);
    if (unit < next || unit >= units.count()) return "an impossible escape";
    next = unit + 1;
    const uint64_t length = units.length(unit);
    if (left < length * size) return "a section of escapes is cut short";
    left -= length * size;
    for (uint64_t j = 0; j < length; ++j, value += size) {
      const Cell cell = units.cell(unit, j);
      std::memcpy(target.at(cell.token, cell.head, cell.dim), value, size);
    }
  }
  return left == 0 ? nullptr : "bytes after the escapes";
}

}  // namespace blatam
