// The memory of a device and the way there (csrc/cuda/bus.h) for Python; both modules have it, one
// over the host, one over CUDA. Calls answer with codes, whose text the module knows.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>

#include "cuda/bus.h"

namespace blatam::python {

// The types Bus, DevicePiece and Mark.
void add_bus(pybind11::module_& module);

// A code, and what was opened; None if nothing was.
template <class Open>
pybind11::tuple opened_bus(const Open& open) {
  std::shared_ptr<cuda::Bus> bus;
  int code;
  {
    const pybind11::gil_scoped_release released;
    code = open(&bus);
  }
  return pybind11::make_tuple(code, bus);
}

}  // namespace blatam::python
