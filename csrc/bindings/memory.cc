// What a tensor is, without touching it: device memory has an address and strides, and nothing here
// may read it.
#include "bindings/memory.h"

#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <vector>

#include "bindings/dlpack.h"
#include "bindings/tensor_argument.h"

namespace py = pybind11;

namespace blatam::python {
namespace {

std::string type_name(const dlpack::DataType& type) {
  const std::string bits = std::to_string(type.bits);
  if (type.lanes != 1) return "vector";
  if (type.code == dlpack::kInt) return "int" + bits;
  if (type.code == dlpack::kUInt) return "uint" + bits;
  if (type.code == dlpack::kFloat) return "float" + bits;
  if (type.code == dlpack::kBfloat) return "bfloat" + bits;
  if (type.code == dlpack::kFloat8E4M3FN) return "float8_e4m3fn";
  if (type.code == dlpack::kFloat8E5M2) return "float8_e5m2";
  return "type " + std::to_string(type.code);
}

py::tuple described(const dlpack::Tensor& tensor, bool read_only) {
  std::vector<int64_t> shape(tensor.shape, tensor.shape + tensor.ndim);
  std::vector<int64_t> strides(shape.size(), 1);
  const int64_t item = tensor.dtype.bits / 8;
  if (tensor.strides != nullptr) {
    strides.assign(tensor.strides, tensor.strides + tensor.ndim);
  } else {
    for (size_t i = shape.size(); i-- > 1;) strides[i - 1] = strides[i] * shape[i];
  }
  for (int64_t& stride : strides) stride *= item;
  const bool host =
      tensor.device.device_type == dlpack::kCpu || tensor.device.device_type == dlpack::kCudaHost;
  const bool device = tensor.device.device_type == dlpack::kCuda ||
                      tensor.device.device_type == dlpack::kCudaManaged;
  if (!host && !device)
    throw Refused{"memory of DLPack's device type " + std::to_string(tensor.device.device_type) +
                      " is neither the host's nor CUDA's",
                  "device", true};
  return py::make_tuple(reinterpret_cast<uintptr_t>(tensor.data) + tensor.byte_offset,
                        host ? -1 : tensor.device.device_id, type_name(tensor.dtype),
                        py::tuple(py::cast(shape)), py::tuple(py::cast(strides)), read_only);
}

Refused unreadable(const std::string& why) {
  return {"a tensor does not show its memory: " + why, "tensor"};
}

// What __dlpack__ gives: with DLPack 1 read-only memory too, which older versions cannot describe.
// The stream -1 asks for no synchronisation; the caller orders work by the stream that is passed.
py::object unsynchronised_capsule(const py::object& object) {
  const py::tuple device = object.attr("__dlpack_device__")();
  py::dict options;
  if (device[0].cast<int>() == dlpack::kCuda) options["stream"] = -1;
  const py::object dlpack = object.attr("__dlpack__");
  try {
    try {
      return dlpack(**options, py::arg("max_version") = py::make_tuple(1, 1));
    } catch (py::error_already_set& error) {
      if (!error.matches(PyExc_TypeError)) throw;
      return dlpack(**options);
    }
  } catch (py::error_already_set& error) {
    throw unreadable(error.what());
  }
}

// The address, the device (-1: the host), the type's name, shape, strides in bytes and whether it
// is read-only; the memory is not read, and nothing waits for a stream.
py::tuple describe_memory(const py::object& object) {
  if (const dlpack::ExchangeApi* table = exchange_table(Py_TYPE(object.ptr()))) {
    dlpack::Tensor tensor{};
    if (table->dltensor_from_py_object_no_sync(object.ptr(), &tensor) != 0)
      throw unreadable(py::error_already_set().what());
    return described(tensor, false);
  }
  if (py::hasattr(object, "__dlpack__")) {
    const py::object capsule = unsynchronised_capsule(object);
    if (PyCapsule_IsValid(capsule.ptr(), "dltensor_versioned")) {
      const auto* managed = static_cast<const dlpack::ManagedTensorVersioned*>(
          PyCapsule_GetPointer(capsule.ptr(), "dltensor_versioned"));
      if (managed->version.major == 1)
        return described(managed->dl_tensor, (managed->flags & dlpack::kReadOnly) != 0);
    }
    if (PyCapsule_IsValid(capsule.ptr(), "dltensor"))
      return described(
          static_cast<const dlpack::ManagedTensor*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor"))
              ->dl_tensor,
          false);
  }
  throw Refused{"an object of the type " + std::string(Py_TYPE(object.ptr())->tp_name) +
                    " shows its memory by neither DLPack's table nor __dlpack__",
                "tensor", true};
}

// The stream that the framework of a tensor would use for it now; None where it has no such table.
py::object current_stream(const py::object& object, int device) {
  const dlpack::ExchangeApi* table = exchange_table(Py_TYPE(object.ptr()));
  if (table == nullptr || table->current_work_stream == nullptr) return py::none();
  void* stream = nullptr;
  if (table->current_work_stream(dlpack::kCuda, device, &stream) != 0)
    throw py::error_already_set();
  return py::int_(reinterpret_cast<uintptr_t>(stream));
}

}  // namespace

void add_memory(py::module_& module) {
  module.def("describe_memory", describe_memory, py::arg("x"),
             "Address, device (-1: the host), type, shape, strides in bytes, read-only.");
  module.def("current_stream", current_stream, py::arg("x"), py::arg("device"),
             "The stream that the framework of x uses now for a device, or None.");
}

}  // namespace blatam::python
