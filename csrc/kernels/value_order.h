// A tensor as one sequence of values, head after head and token after token, whatever its strides.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "kernels/tensor.h"

namespace blatam {

// Calls work(values, at, count) for stretches of memory that hold the values [begin, end) of the
// sequence, in order; `at` counts from `begin`.
template <class Byte, class Work>
void each_stretch_of_values(const View<Byte>& tensor, uint64_t begin, uint64_t end,
                            const Work& work) {
  if (begin == end) return;
  const uint64_t head = tensor.shape.head_dim;
  const uint64_t heads = tensor.shape.kv_heads;
  const uint64_t row = tensor.contiguous() ? end : tensor.heads_adjoin() ? head * heads : head;
  for (uint64_t value = begin; value < end;) {
    const uint64_t count = std::min(end - value, row - value % row);
    work(tensor.at(value / (head * heads), value / head % heads, value % head), value - begin,
         count);
    value += count;
  }
}

// The values [begin, end) to `values`, or from there.
inline void gather(const Source& source, uint64_t begin, uint64_t end, uint8_t* values) {
  const size_t width = dtype_bytes(source.dtype);
  each_stretch_of_values(source, begin, end, [&](const uint8_t* from, uint64_t at, uint64_t count) {
    std::memcpy(values + at * width, from, count * width);
  });
}
inline void scatter(const uint8_t* values, const Target& target, uint64_t begin, uint64_t end) {
  const size_t width = dtype_bytes(target.dtype);
  each_stretch_of_values(target, begin, end, [&](uint8_t* to, uint64_t at, uint64_t count) {
    std::memcpy(to, values + at * width, count * width);
  });
}

}  // namespace blatam
