#include "bindings/tensor_argument.h"

#include <array>
#include <cstring>
#include <string>

#include "kernels/codec.h"

namespace py = pybind11;

namespace blatam::python {
namespace {

constexpr std::array kDtypeNames = {"bfloat16", "float16", "float32"};

// The text of the Python error that is set, which is cleared.
std::string take_python_error() { return py::error_already_set().what(); }

std::string type_name(py::handle object) { return Py_TYPE(object.ptr())->tp_name; }

}  // namespace

// Looking it up costs more than all the rest, so the last answer is kept, with a reference: the
// address of a type that is gone may come back as another.
const dlpack::ExchangeApi* exchange_table(PyTypeObject* type) {
  thread_local PyTypeObject* last_type = nullptr;
  thread_local const dlpack::ExchangeApi* last_table = nullptr;
  if (type == last_type) return last_table;
  const dlpack::ExchangeApi* table = nullptr;
  const py::handle handle(reinterpret_cast<PyObject*>(type));
  if (py::hasattr(handle, "__dlpack_c_exchange_api__")) {
    const py::object capsule = handle.attr("__dlpack_c_exchange_api__");
    if (PyCapsule_IsValid(capsule.ptr(), "dlpack_exchange_api"))
      table = static_cast<const dlpack::ExchangeApi*>(
          PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
    while (table != nullptr && table->version.major != 1) table = table->prev_api;
    if (table != nullptr && table->dltensor_from_py_object_no_sync == nullptr) table = nullptr;
  }
  Py_INCREF(type);
  Py_XDECREF(last_type);
  last_type = type;
  last_table = table;
  return table;
}

const char* dtype_name(Dtype dtype) noexcept { return kDtypeNames[static_cast<size_t>(dtype)]; }

Dtype dtype_from_name(const std::string& name) {
  for (size_t i = 0; i < kDtypeNames.size(); ++i)
    if (name == kDtypeNames[i]) return static_cast<Dtype>(i);
  throw Refused{"dtype is '" + name + "'; it must be bfloat16, float16 or float32", "dtype"};
}

// Shape and strides, whatever they came from.
struct TensorArgument::Layout {
  void* data;
  int64_t ndim;
  const int64_t* shape;
  const int64_t* strides;  // null: compact
  int64_t stride_bytes;    // what a stride of one is
  dlpack::DataType dtype;
};

TensorArgument::TensorArgument(py::handle object, const char* name, std::optional<Dtype> declared,
                               bool writable)
    : declared_(declared), writable_(writable) {
  try {
    if (from_exchange_table(object, name) || from_buffer(object, name)) return;
    from_capsule(object, name);
  } catch (...) {
    if (buffer_.obj != nullptr) PyBuffer_Release(&buffer_);
    throw;
  }
}

TensorArgument::~TensorArgument() {
  if (buffer_.obj != nullptr) PyBuffer_Release(&buffer_);
}

bool TensorArgument::from_exchange_table(py::handle object, const char* name) {
  const dlpack::ExchangeApi* table = exchange_table(Py_TYPE(object.ptr()));
  if (table == nullptr) return false;
  dlpack::Tensor tensor{};
  if (table->dltensor_from_py_object_no_sync(object.ptr(), &tensor) != 0)
    throw Refused{std::string(name) + " cannot be read: " + take_python_error(), name};
  adopt(tensor, name);
  return true;
}

bool TensorArgument::from_buffer(py::handle object, const char* name) {
  if (PyObject_CheckBuffer(object.ptr()) == 0) return false;
  const int flags = PyBUF_STRIDES | PyBUF_FORMAT | (writable_ ? PyBUF_WRITABLE : 0);
  if (PyObject_GetBuffer(object.ptr(), &buffer_, flags) != 0) {
    buffer_.obj = nullptr;
    throw Refused{std::string(name) + " cannot be " + (writable_ ? "written" : "read") + ": " +
                      take_python_error(),
                  name};
  }
  std::string format = buffer_.format == nullptr ? "B" : buffer_.format;
  if (format.size() == 2 && std::strchr("@=<", format[0]) != nullptr) format.erase(0, 1);
  dlpack::DataType dtype{255, static_cast<uint8_t>(8 * buffer_.itemsize), 1};
  if (format == "e" || format == "f" || format == "d") dtype.code = dlpack::kFloat;
  if (format == "H") dtype.code = dlpack::kUInt;
  adopt(Layout{buffer_.buf, buffer_.ndim, reinterpret_cast<const int64_t*>(buffer_.shape),
               reinterpret_cast<const int64_t*>(buffer_.strides), 1, dtype},
        name);
  return true;
}

void TensorArgument::from_capsule(py::handle object, const char* name) {
  if (!py::hasattr(object, "__dlpack__"))
    throw Refused{
        std::string(name) + " must be a numpy array or a torch tensor, not " + type_name(object),
        name};
  try {
    try {
      capsule_ = object.attr("__dlpack__")(py::arg("max_version") = py::make_tuple(1, 1));
    } catch (py::error_already_set& error) {
      if (!error.matches(PyExc_TypeError)) throw;
      capsule_ = object.attr("__dlpack__")();
    }
  } catch (py::error_already_set& error) {
    throw Refused{std::string(name) + " cannot be read: " + error.what(), name};
  }
  // Not consumed: the capsule's own destructor frees the tensor.
  if (PyCapsule_IsValid(capsule_.ptr(), "dltensor_versioned")) {
    const auto* managed = static_cast<const dlpack::ManagedTensorVersioned*>(
        PyCapsule_GetPointer(capsule_.ptr(), "dltensor_versioned"));
    if (managed->version.major != 1)
      throw Refused{std::string(name) + " comes by an unknown version of DLPack", name, true};
    if (writable_ && (managed->flags & dlpack::kReadOnly) != 0)
      throw Refused{std::string(name) + " is read-only", name};
    adopt(managed->dl_tensor, name);
  } else if (PyCapsule_IsValid(capsule_.ptr(), "dltensor")) {
    adopt(
        static_cast<const dlpack::ManagedTensor*>(PyCapsule_GetPointer(capsule_.ptr(), "dltensor"))
            ->dl_tensor,
        name);
  } else {
    throw Refused{std::string(name) + ".__dlpack__() gave no DLPack capsule", name};
  }
}

void TensorArgument::adopt(const dlpack::Tensor& tensor, const char* name) {
  if (tensor.device.device_type != dlpack::kCpu && tensor.device.device_type != dlpack::kCudaHost)
    throw Refused{std::string(name) + " lies on another device; copy it to the CPU first", name,
                  true};
  Layout layout{static_cast<char*>(tensor.data) + tensor.byte_offset,
                tensor.ndim,
                tensor.shape,
                tensor.strides,
                tensor.dtype.bits / 8,
                tensor.dtype};
  adopt(layout, name);
}

void TensorArgument::adopt(const Layout& layout, const char* name) {
  const std::string who = name;
  const dlpack::DataType type = layout.dtype;
  std::optional<Dtype> dtype;
  if (type.lanes == 1 && type.bits == 16) {
    if (type.code == dlpack::kBfloat) dtype = Dtype::bf16;
    if (type.code == dlpack::kFloat) dtype = Dtype::fp16;
    if (type.code == dlpack::kUInt && declared_ && *declared_ != Dtype::fp32) dtype = declared_;
    if (type.code == dlpack::kUInt && !dtype)
      throw Refused{who +
                        " holds 16-bit integers; if they are the bits of bfloat16 or float16 "
                        "numbers, say which with dtype=",
                    name, true};
  } else if (type.lanes == 1 && type.bits == 32 && type.code == dlpack::kFloat) {
    dtype = Dtype::fp32;
  }
  if (!dtype) throw Refused{who + " must hold bfloat16, float16 or float32 numbers", name, true};
  if (declared_ && *declared_ != *dtype)
    throw Refused{
        who + " holds " + dtype_name(*dtype) + ", but dtype= says " + dtype_name(*declared_), name};
  if (layout.ndim != 3)
    throw Refused{who + " must have the shape [tokens, kv_heads, head_dim], not " +
                      std::to_string(layout.ndim) + " dimensions",
                  name};
  view_.dtype = *dtype;
  const int64_t* const sizes = layout.shape;
  if (sizes[1] > UINT32_MAX || sizes[2] > UINT32_MAX) throw Refused{who + " is too large", name};
  view_.shape = {static_cast<uint64_t>(sizes[0]), static_cast<uint32_t>(sizes[1]),
                 static_cast<uint32_t>(sizes[2])};
  if (!valid_shape(view_.shape))
    throw Refused{who + " has no values: kv_heads and head_dim must be at least 1", name};
  const auto item = static_cast<int64_t>(dtype_bytes(*dtype));
  view_.data = static_cast<uint8_t*>(layout.data);
  if (layout.strides == nullptr) {
    view_.head_bytes = item * sizes[2];
    view_.token_bytes = view_.head_bytes * sizes[1];
    return;
  }
  // A dimension of one, or of a tensor without tokens, may carry any stride.
  if (sizes[0] != 0 && sizes[2] > 1 && layout.strides[2] * layout.stride_bytes != item)
    throw Refused{who + "'s inner dimension is not contiguous; pass a contiguous copy", name};
  view_.head_bytes = sizes[1] > 1 ? layout.strides[1] * layout.stride_bytes : item * sizes[2];
  view_.token_bytes =
      sizes[0] > 1 ? layout.strides[0] * layout.stride_bytes : view_.head_bytes * sizes[1];
  if (writable_ &&
      ((sizes[0] > 1 && view_.token_bytes == 0) || (sizes[1] > 1 && view_.head_bytes == 0)))
    throw Refused{who + " shows the same memory more than once; pass one that does not", name};
}

}  // namespace blatam::python
