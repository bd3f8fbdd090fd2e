// The index of a disk tier as Python sees it.
#pragma once

#include <pybind11/pybind11.h>

namespace blatam::python {

// Adds the types Places and Mapping.
void add_places(pybind11::module_& module);

}  // namespace blatam::python
