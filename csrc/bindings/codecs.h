// The codecs and their blobs, as functions of the module.
#pragma once

#include <pybind11/pybind11.h>

namespace blatam::python {

void add_codecs(pybind11::module_& module);

}  // namespace blatam::python
