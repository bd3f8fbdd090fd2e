// A Python buffer held for the length of a call, and the one place where the GIL is let go.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <span>

namespace blatam::python {

namespace py = pybind11;

// A contiguous view of a Python buffer, held while it is used.
class Buffer {
 public:
  Buffer(py::handle object, int flags) {
    if (PyObject_GetBuffer(object.ptr(), &view_, flags | PyBUF_C_CONTIGUOUS) != 0) {
      throw py::error_already_set();
    }
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { PyBuffer_Release(&view_); }

  [[nodiscard]] const Py_buffer& view() const noexcept { return view_; }
  [[nodiscard]] std::span<const uint8_t> bytes() const noexcept {
    return {static_cast<const uint8_t*>(view_.buf), static_cast<size_t>(view_.len)};
  }

 private:
  Py_buffer view_{};
};

// Below this, releasing the GIL costs more than the work.
constexpr size_t kReleaseBytes = size_t{64} << 10;

template <class F>
auto without_gil(bool release, F&& work) {
  if (!release) return work();
  const py::gil_scoped_release released;
  return work();
}

}  // namespace blatam::python
