// The signs of a rotation as the kernels take them, one word a channel.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/rotation.h"

namespace blatam {

inline std::vector<uint32_t> signs_of(uint64_t seed, size_t head_dim) {
  std::vector<uint32_t> signs(head_dim);
  for (size_t i = 0; i < head_dim; ++i) signs[i] = sign_of(seed, i);
  return signs;
}

}  // namespace blatam
