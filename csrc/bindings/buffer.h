// What every binding of arrays needs: a view of a Python buffer, and the GIL out of the way.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>

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
  template <class Item>
  [[nodiscard]] std::span<const Item> items() const noexcept {
    return {static_cast<const Item*>(view_.buf), static_cast<size_t>(view_.len) / sizeof(Item)};
  }

  // The letter that the struct module has for the type of the items, without a mark for native or
  // little-endian order; as it is if it says more. Requires PyBUF_FORMAT.
  [[nodiscard]] std::string format() const {
    std::string format = view_.format == nullptr ? "B" : view_.format;
    if (format.size() == 2 && std::strchr("@=<", format[0]) != nullptr) format.erase(0, 1);
    return format;
  }
  // Whether format() is one of these letters.
  [[nodiscard]] bool holds(const char* letters) const {
    const std::string letter = format();
    return letter.size() == 1 && std::strchr(letters, letter[0]) != nullptr;
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
