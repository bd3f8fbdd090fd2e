#include "kernels/lossless.h"

#include <string_view>

namespace blatam {

const LosslessKernels& lossless_for(const char* isa) {
#ifdef BLATAM_X86
  if (std::string_view(isa) == "avx512") return kLosslessAvx512;
  if (std::string_view(isa) == "avx2") return kLosslessAvx2;
#else
  (void)isa;
#endif
  return kLosslessBaseline;
}

}  // namespace blatam
