#pragma once

#include <pybind11/pybind11.h>

namespace blatam::python {

// Adds the types Trace and Replay.
void add_simulation(pybind11::module_& module);

}  // namespace blatam::python
