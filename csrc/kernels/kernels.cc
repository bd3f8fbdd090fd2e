#include "kernels/kernels.h"

#include <string_view>

namespace blatam {
namespace {

// The loops as they stand, under the name that the lossless kernels are looked up by.
Kernels named(const char* isa) {
  Kernels kernels = kKernelsBaseline;
  kernels.isa = isa;
  return kernels;
}

}  // namespace

const Kernels& kernels_for(const char* isa) {
  static const Kernels avx2 = named("avx2");
  static const Kernels avx512 = named("avx512");
  const std::string_view name = isa;
  return name == "avx512" ? avx512 : name == "avx2" ? avx2 : kKernelsBaseline;
}

}  // namespace blatam
