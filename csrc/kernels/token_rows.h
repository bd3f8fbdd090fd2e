// How the schemes that quantise token by token cut a tensor into rows and groups: a row is one head
// of one token, or, where a head has fewer than 64 values, all heads of one token. Groups of 64 run
// along a row; the last one of a row may be shorter. No group holds padding.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/escapes.h"
#include "kernels/kernels.h"
#include "kernels/tensor.h"

namespace blatam {

class TokenRows {
 public:
  explicit TokenRows(const Shape& shape) : shape_(shape), whole_tokens_(shape.head_dim < kGroup) {}

  uint64_t rows() const { return whole_tokens_ ? shape_.tokens : shape_.tokens * shape_.kv_heads; }
  uint64_t row_values() const {
    return whole_tokens_ ? uint64_t{shape_.kv_heads} * shape_.head_dim : shape_.head_dim;
  }
  uint64_t row_groups() const { return (row_values() + kGroup - 1) / kGroup; }
  // Rows one after the other cut into the same groups as each on its own.
  bool rows_join() const { return row_values() % kGroup == 0; }

  uint64_t token_of(uint64_t row) const { return whole_tokens_ ? row : row / shape_.kv_heads; }
  uint64_t head_of(uint64_t row) const { return whole_tokens_ ? 0 : row % shape_.kv_heads; }
  bool whole_tokens() const { return whole_tokens_; }

  // As the units that escape: groups.
  uint64_t count() const { return rows() * row_groups(); }
  uint64_t length(uint64_t group) const {
    return std::min<uint64_t>(kGroup, row_values() - group % row_groups() * kGroup);
  }
  Cell cell(uint64_t group, uint64_t i) const {
    const uint64_t row = group / row_groups();
    const uint64_t value = group % row_groups() * kGroup + i;
    if (!whole_tokens_) return {token_of(row), head_of(row), value};
    return {row, value / shape_.head_dim, value % shape_.head_dim};
  }

 private:
  Shape shape_;
  bool whole_tokens_;
};

}  // namespace blatam
