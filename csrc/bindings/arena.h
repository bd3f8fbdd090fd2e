#pragma once

#include <pybind11/pybind11.h>

namespace blatam::python {

// Adds the types Arena and Piece.
void add_arena(pybind11::module_& module);

}  // namespace blatam::python
