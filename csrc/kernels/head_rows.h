// How the schemes with one norm or scale a head cut a tensor: a row is one head of one token,
// whatever its size, and escapes as a whole.
#pragma once

#include <cstdint>

#include "kernels/escapes.h"
#include "kernels/tensor.h"

namespace blatam {

class HeadRows {
 public:
  explicit HeadRows(const Shape& shape) : shape_(shape) {}

  uint64_t rows() const { return shape_.tokens * shape_.kv_heads; }
  uint64_t token(uint64_t row) const { return row / shape_.kv_heads; }
  uint64_t head(uint64_t row) const { return row % shape_.kv_heads; }

  // As the units that escape: rows.
  uint64_t count() const { return rows(); }
  uint64_t length(uint64_t /*row*/) const { return shape_.head_dim; }
  Cell cell(uint64_t row, uint64_t i) const { return {token(row), head(row), i}; }

 protected:
  Shape shape_;
};

}  // namespace blatam
