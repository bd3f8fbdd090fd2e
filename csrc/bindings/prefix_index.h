#pragma once

#include <pybind11/pybind11.h>

namespace blatam::python {

// Adds the type PrefixIndex.
void add_prefix_index(pybind11::module_& module);

}  // namespace blatam::python
