// Codecs: Python objects in, tensors and bytes to kernels/, Python objects out. Kernels know no
// checksum and no instruction set of their own; both come from core/ here.
#include "bindings/codecs.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <string>

#include "bindings/buffer.h"
#include "bindings/tensor_argument.h"
#include "core/crc32c.h"
#include "core/isa.h"
#include "kernels/codec.h"

namespace py = pybind11;

namespace blatam::python {
namespace {

constexpr Checksum kChecksum = {crc32c, crc32c_combine};

// Below this many values, releasing the GIL costs more than the work.
constexpr uint64_t kReleaseValues = 4096;

[[noreturn]] void raise_fault(const Fault& fault) {
  const py::object errors = py::module_::import("blatam_kv.errors");
  if (fault.unsupported)
    PyErr_SetObject(errors.attr("Unsupported").ptr(),
                    py::str("a blob of " + std::string(fault.reason)).ptr());
  else
    PyErr_SetObject(errors.attr("CorruptBlob").ptr(), py::str(fault.reason).ptr());
  throw py::error_already_set();
}

void translate(std::exception_ptr pointer) {
  try {
    if (pointer) std::rethrow_exception(pointer);
  } catch (const Refused& refused) {
    try {
      const py::object errors = py::module_::import("blatam_kv.errors");
      const py::object error =
          refused.unsupported
              ? errors.attr("Unsupported")(refused.message)
              : errors.attr("InvalidRequest")(refused.message, py::arg("field") = refused.field);
      PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(error.ptr())), error.ptr());
    } catch (py::error_already_set& error) {
      error.restore();
    }
  }
}

const Codec& codec_named(const std::string& name) {
  if (const Codec* codec = find_codec(name)) return *codec;
  std::string message = "unknown codec '" + name + "'; known:";
  for (const Codec& codec : codecs()) message.append(" ").append(codec.name);
  throw Refused{message, "codec"};
}

std::optional<Dtype> declared(const std::optional<std::string>& name) {
  return name ? std::optional(dtype_from_name(*name)) : std::nullopt;
}

Job job(unsigned threads, uint64_t seed) {
  return {kernels_for(isa_name(isa())), threads, seed, nullptr};
}

py::tuple names() {
  py::list names;
  for (const Codec& codec : codecs()) names.append(py::str(codec.name.data(), codec.name.size()));
  return py::tuple(names);
}

py::tuple shape_tuple(const Shape& shape) {
  return py::make_tuple(shape.tokens, shape.kv_heads, shape.head_dim);
}

uint64_t size_of(const std::string& codec, bool key, const std::string& dtype, uint64_t tokens,
                 uint32_t kv_heads, uint32_t head_dim) {
  const Shape shape = {tokens, kv_heads, head_dim};
  if (!valid_shape(shape))
    throw Refused{
        "the shape must have kv_heads and head_dim of at least 1 and at most 2**56 values",
        "shape"};
  return blob_bytes(codec_named(codec), key ? Kind::key : Kind::value, shape,
                    dtype_from_name(dtype));
}

// The address range that a view may touch.
bool overlaps(const View<uint8_t>& view, std::span<const uint8_t> bytes) {
  if (view.shape.tokens == 0 || bytes.empty()) return false;
  const auto tokens = static_cast<int64_t>(view.shape.tokens - 1) * view.token_bytes;
  const auto heads = static_cast<int64_t>(view.shape.kv_heads - 1) * view.head_bytes;
  const uint8_t* low = view.data + std::min<int64_t>(tokens, 0) + std::min<int64_t>(heads, 0);
  const uint8_t* high = view.data + std::max<int64_t>(tokens, 0) + std::max<int64_t>(heads, 0) +
                        view.head_row_bytes();
  return low < bytes.data() + bytes.size() && bytes.data() < high;
}

py::tuple describe_tensor(const py::object& x, const std::optional<std::string>& dtype) {
  const TensorArgument tensor(x, "x", declared(dtype), false);
  return py::make_tuple(dtype_name(tensor.view().dtype), shape_tuple(tensor.view().shape));
}

uint64_t encode(const py::object& x, const py::object& out, const std::string& codec, bool key,
                const std::optional<std::string>& dtype, uint64_t seed, unsigned threads,
                bool checksum) {
  Header header;
  header.codec = &codec_named(codec);
  header.kind = key ? Kind::key : Kind::value;
  header.checksum = checksum;
  const TensorArgument tensor(x, "x", declared(dtype), false);
  const View<uint8_t>& view = tensor.view();
  const Buffer buffer(out, PyBUF_WRITABLE);
  const std::span bytes(static_cast<uint8_t*>(buffer.view().buf),
                        static_cast<size_t>(buffer.view().len));
  if (overlaps(view, bytes)) throw Refused{"out overlaps x; pass another buffer", "out"};
  const Source source = {view.data, view.shape, view.dtype, view.token_bytes, view.head_bytes};
  return without_gil(view.shape.values() >= kReleaseValues, [&] {
    return encode_blob(job(threads, seed), header, source, kChecksum, bytes);
  });
}

// Copies tokens of x, from the first-th on, until target is full.
void copy_tensor(const py::object& x, const std::optional<std::string>& dtype, uint64_t first,
                 const py::object& target, const std::optional<std::string>& target_dtype) {
  const TensorArgument from(x, "x", declared(dtype), false);
  const TensorArgument to(target, "out", declared(target_dtype), true);
  const View<uint8_t>& out = to.view();
  View<uint8_t> in = from.view();
  if (in.dtype != out.dtype || in.shape.kv_heads != out.shape.kv_heads ||
      in.shape.head_dim != out.shape.head_dim || first > in.shape.tokens ||
      in.shape.tokens - first < out.shape.tokens)
    throw Refused{"x and out do not fit together", "out"};
  in.data += static_cast<int64_t>(first) * in.token_bytes;
  in.shape.tokens = out.shape.tokens;
  copy_values({in.data, in.shape, in.dtype, in.token_bytes, in.head_bytes}, out);
}

py::dict describe_blob(const py::object& blob) {
  const Buffer buffer(blob, PyBUF_SIMPLE);
  Header header;
  if (const Fault fault = read_header(buffer.bytes(), kChecksum, &header)) raise_fault(fault);
  py::dict found;
  found["codec"] = py::str(header.codec->name.data(), header.codec->name.size());
  found["kind"] = header.kind == Kind::key ? "key" : "value";
  found["dtype"] = dtype_name(header.dtype);
  found["shape"] = shape_tuple(header.shape);
  found["group"] = header.scheme().group;
  found["lossless"] = header.scheme().lossless;
  found["seed"] = header.seed;
  found["checksum"] = header.checksum;
  return found;
}

void decode(const py::object& blob, const py::object& out, const std::optional<std::string>& dtype,
            unsigned threads) {
  const Buffer buffer(blob, PyBUF_SIMPLE);
  Header header;
  if (const Fault fault = read_header(buffer.bytes(), kChecksum, &header)) raise_fault(fault);
  const TensorArgument tensor(out, "out", dtype ? declared(dtype) : header.dtype, true);
  const View<uint8_t>& view = tensor.view();
  if (view.dtype != header.dtype)
    throw Refused{std::string("out holds ") + dtype_name(view.dtype) + ", the blob " +
                      dtype_name(header.dtype),
                  "out"};
  if (view.shape.tokens != header.shape.tokens || view.shape.kv_heads != header.shape.kv_heads ||
      view.shape.head_dim != header.shape.head_dim)
    throw Refused{"out has the shape " + py::str(shape_tuple(view.shape)).cast<std::string>() +
                      ", the blob " + py::str(shape_tuple(header.shape)).cast<std::string>(),
                  "out"};
  if (overlaps(view, buffer.bytes())) throw Refused{"out overlaps the blob; pass another", "out"};
  const Fault fault = without_gil(view.shape.values() >= kReleaseValues, [&] {
    return decode_blob(job(threads, 0), buffer.bytes(), header, kChecksum, view);
  });
  if (fault) raise_fault(fault);
}

// Writes the header of a payload that lies behind room for one.
void seal(const py::object& blob, const std::string& codec, bool key, const std::string& dtype,
          uint64_t tokens, uint32_t kv_heads, uint32_t head_dim, uint64_t seed, bool checksum) {
  Header header;
  header.codec = &codec_named(codec);
  header.kind = key ? Kind::key : Kind::value;
  header.dtype = dtype_from_name(dtype);
  header.checksum = checksum;
  header.shape = {tokens, kv_heads, head_dim};
  header.seed = seed;
  if (!valid_shape(header.shape)) throw Refused{"an impossible shape", "shape"};
  const Buffer buffer(blob, PyBUF_WRITABLE);
  const std::span bytes(static_cast<uint8_t*>(buffer.view().buf),
                        static_cast<size_t>(buffer.view().len));
  if (bytes.size() < kHeaderBytes) throw Refused{"there is no room for a header", "blob"};
  without_gil(bytes.size() >= kReleaseBytes, [&] { seal_blob(header, kChecksum, bytes); });
}

py::dict check_blob(const py::object& blob) {
  const Buffer buffer(blob, PyBUF_SIMPLE);
  const std::span<const uint8_t> bytes = buffer.bytes();
  Header header;
  if (const Fault fault = read_header(bytes, kChecksum, &header)) raise_fault(fault);
  const Fault fault = without_gil(bytes.size() >= kReleaseBytes,
                                  [&] { return check_payload(bytes, header, kChecksum); });
  if (fault) raise_fault(fault);
  return describe_blob(blob);
}

}  // namespace

void add_codecs(py::module_& module) {
  py::register_local_exception_translator(translate);
  module.def("codecs", names, "The names of the codecs, in the order of their ids.");
  module.def("describe_tensor", describe_tensor, py::arg("x"), py::arg("dtype"),
             "dtype and (tokens, kv_heads, head_dim) of a tensor.");
  module.def("blob_bytes", size_of, py::arg("codec"), py::arg("key"), py::arg("dtype"),
             py::arg("tokens"), py::arg("kv_heads"), py::arg("head_dim"),
             "The size of a blob for finite values; where it depends on them, the most it can be.");
  module.def(
      "encode_blob", encode, py::arg("x"), py::arg("out"), py::arg("codec"), py::arg("key"),
      py::arg("dtype"), py::arg("seed"), py::arg("threads"), py::arg("checksum"),
      "Writes a blob into out and returns its bytes; if that is more than out has, out holds\n"
      "no blob and the answer is how much to offer.");
  module.def("copy_tensor", copy_tensor, py::arg("x"), py::arg("dtype"), py::arg("first"),
             py::arg("out"), py::arg("out_dtype"),
             "Copies tokens of x, from the first-th on, until out is full.");
  module.def("describe_blob", describe_blob, py::arg("blob"),
             "What the header of a blob says, once it is checked.");
  module.def("seal_blob", seal, py::arg("blob"), py::arg("codec"), py::arg("key"), py::arg("dtype"),
             py::arg("tokens"), py::arg("kv_heads"), py::arg("head_dim"), py::arg("seed"),
             py::arg("checksum"), "Makes a blob of a payload with 64 bytes of room before it.");
  module.def("check_blob", check_blob, py::arg("blob"),
             "What describe_blob says, once the payload is checked too.");
  module.def("decode_blob", decode, py::arg("blob"), py::arg("out"), py::arg("dtype"),
             py::arg("threads"), "Checks a blob and fills out with its values.");
}

}  // namespace blatam::python
