// A tensor argument: whatever Python holds one in, seen as shape, strides and memory, without a
// copy. Three ways in, the fastest first: the DLPack exchange table of the object's type (torch
// from 2.10 on), the buffer protocol (numpy), and __dlpack__ (everything else). It is used and
// destroyed with the GIL held; the memory is valid for as long as it lives.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <optional>
#include <string>

#include "bindings/dlpack.h"
#include "kernels/tensor.h"

namespace blatam::python {

// An argument that is wrong. Becomes errors.InvalidRequest with this field, or errors.Unsupported.
struct Refused {
  std::string message;
  std::string field;
  bool unsupported = false;
};

// The exchange table of a type, or null.
const dlpack::ExchangeApi* exchange_table(PyTypeObject* type);

class TensorArgument {
 public:
  // `name`: what messages call it. `declared`: what 16-bit unsigned integers stand for, and a check
  // for everything else. Throws Refused.
  TensorArgument(pybind11::handle object, const char* name, std::optional<Dtype> declared,
                 bool writable);
  TensorArgument(const TensorArgument&) = delete;
  TensorArgument& operator=(const TensorArgument&) = delete;
  ~TensorArgument();

  [[nodiscard]] const View<uint8_t>& view() const noexcept { return view_; }

 private:
  struct Layout;

  bool from_exchange_table(pybind11::handle object, const char* name);
  bool from_buffer(pybind11::handle object, const char* name);
  void from_capsule(pybind11::handle object, const char* name);
  void adopt(const dlpack::Tensor& tensor, const char* name);
  void adopt(const Layout& layout, const char* name);

  std::optional<Dtype> declared_;
  bool writable_;
  View<uint8_t> view_;
  Py_buffer buffer_{};  // obj is null unless a buffer is held
  pybind11::object capsule_;
};

// "bfloat16", "float16" or "float32".
const char* dtype_name(Dtype dtype) noexcept;
// Throws Refused for another name.
Dtype dtype_from_name(const std::string& name);

}  // namespace blatam::python
