// Memory that Python holds, on whatever device, as addresses.
#pragma once

#include <pybind11/pybind11.h>

namespace blatam::python {

void add_memory(pybind11::module_& module);

}  // namespace blatam::python
