#include "kernels/kernels.h"

#include <string_view>

namespace blatam {
namespace {

#ifdef BLATAM_X86
// The loops as they stand, under the name that the lossless kernels are looked up by.
Kernels named(const char* isa) {
  Kernels kernels = kKernelsBaseline;
  kernels.isa = isa;
  return kernels;
}
#endif

}  // namespace

const Kernels& kernels_for(const char* isa) {
#ifdef BLATAM_X86
  static const Kernels avx2 = named("avx2");
  const std::string_view name = isa;
  if (name == "avx512") return kKernelsAvx512;
  if (name == "avx2") return avx2;
#else
  (void)isa;
#endif
  return kKernelsBaseline;
}

}  // namespace blatam
