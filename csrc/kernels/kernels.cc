#include "kernels/kernels.h"

#include <string_view>

namespace blatam {

const Kernels& kernels_for(const char* isa) {
  (void)isa;
  return kKernelsBaseline;
}

}  // namespace blatam
