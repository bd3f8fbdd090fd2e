// Paged caches in host memory for Python, and blobs around payloads that were made elsewhere.
#pragma once

#include <pybind11/pybind11.h>

namespace blatam::python {

void add_paged(pybind11::module_& module);

}  // namespace blatam::python
