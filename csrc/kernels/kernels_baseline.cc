// The kernels for every machine: the loops as they stand. This object exports one table.
#include "kernels/kernel_table.h"

namespace blatam {

const Kernels kKernelsBaseline = loops("baseline");

}  // namespace blatam
