#include "kernels/kernels.h"

#include <string_view>

namespace blatam {

const Kernels& kernels_for(const char* isa) {
#ifdef BLATAM_X86
  const std::string_view name = isa;
  if (name == "avx512") return kKernelsAvx512;
  if (name == "avx2") return kKernelsAvx2;
#else
  (void)isa;
#endif
  return kKernelsBaseline;
}

}  // namespace blatam
