// What a codec is given: a strided view of one tensor [tokens, kv_heads, head_dim] whose inner
// dimension is contiguous. A view owns nothing; its memory must outlive the call it is passed to.
// Plain types and static functions only: instruction-set files include this.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace blatam {

enum class Dtype : uint8_t { bf16 = 0, fp16 = 1, fp32 = 2 };
enum class Kind : uint8_t { value = 0, key = 1 };

static inline size_t dtype_bytes(Dtype dtype) { return dtype == Dtype::fp32 ? 4 : 2; }

struct Shape {
  uint64_t tokens = 0;
  uint32_t kv_heads = 0;
  uint32_t head_dim = 0;

  // Valid only where checked_values() has said that the product fits.
  uint64_t values() const { return tokens * kv_heads * head_dim; }
};

// Byte is uint8_t, or const uint8_t for what is only read.
template <class Byte>
struct View {
  Byte* data = nullptr;
  Shape shape;
  Dtype dtype = Dtype::bf16;
  int64_t token_bytes = 0;  // from one token to the next; may be negative
  int64_t head_bytes = 0;

  Byte* at(uint64_t token, uint64_t head, uint64_t dim) const {
    return data + static_cast<int64_t>(token) * token_bytes +
           static_cast<int64_t>(head) * head_bytes + dim * dtype_bytes(dtype);
  }
  uint64_t head_row_bytes() const { return shape.head_dim * uint64_t{dtype_bytes(dtype)}; }
  // The heads of one token follow one another without a gap.
  bool heads_adjoin() const {
    return shape.kv_heads == 1 || head_bytes == static_cast<int64_t>(head_row_bytes());
  }
  // The whole tensor is one row.
  bool contiguous() const {
    return heads_adjoin() &&
           (shape.tokens <= 1 ||
            token_bytes == static_cast<int64_t>(head_row_bytes() * shape.kv_heads));
  }
};

using Source = View<const uint8_t>;
using Target = View<uint8_t>;

}  // namespace blatam
