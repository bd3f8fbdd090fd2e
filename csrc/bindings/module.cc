// blatam_kv._core: what Python sees of the core. Arguments are checked and converted, the GIL is
// released once around the work, the answer is converted back; the work itself is in core/.
#include <pybind11/pybind11.h>

#include <cstring>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "bindings/arena.h"
#include "bindings/buffer.h"
#include "bindings/cache_type.h"
#include "bindings/codecs.h"
#include "bindings/memory.h"
#include "bindings/paged.h"
#include "bindings/places.h"
#include "bindings/prefix_index.h"
#include "bindings/simulation.h"
#include "core/crc32c.h"
#include "core/digest.h"
#include "core/isa.h"
#include "core/policy.h"

namespace py = pybind11;

namespace blatam::python {
namespace {

std::span<const uint8_t> span_of(const py::bytes& bytes) {
  return {reinterpret_cast<const uint8_t*>(PyBytes_AS_STRING(bytes.ptr())),
          static_cast<size_t>(PyBytes_GET_SIZE(bytes.ptr()))};
}

py::bytes to_bytes(const Digest& digest) {
  return {reinterpret_cast<const char*>(digest.bytes.data()), digest.bytes.size()};
}

py::bytes digest_of(const py::object& data, const py::bytes& key, const py::bytes& person) {
  const DigestKey digest_key(span_of(key), span_of(person));
  const Buffer buffer(data, PyBUF_SIMPLE);
  return to_bytes(without_gil(buffer.bytes().size() >= kReleaseBytes,
                              [&] { return digest_key.hash(buffer.bytes()); }));
}

py::bytes digest_of_fields(const py::list& fields, const py::bytes& key, const py::bytes& person) {
  const DigestKey digest_key(span_of(key), span_of(person));
  std::vector<std::span<const uint8_t>> spans;
  for (const py::handle field : fields) {
    if (!PyBytes_Check(field.ptr())) {
      throw py::type_error("framed_digest takes a list of bytes, not of " +
                           std::string(Py_TYPE(field.ptr())->tp_name));
    }
    spans.push_back(span_of(py::reinterpret_borrow<py::bytes>(field)));
  }
  return to_bytes(framed_digest(digest_key, spans));
}

template <class Token>
py::bytes chain(const Buffer& tokens, size_t block_tokens, const Digest& parent,
                const DigestKey& key) {
  const auto* ids = static_cast<const Token*>(tokens.view().buf);
  const size_t count = static_cast<size_t>(tokens.view().len) / sizeof(Token);
  const size_t blocks = count / block_tokens;
  const py::bytes result = py::reinterpret_steal<py::bytes>(
      PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(blocks * sizeof(Digest))));
  if (!result) throw py::error_already_set();
  auto* digests = reinterpret_cast<Digest*>(PyBytes_AS_STRING(result.ptr()));
  const size_t bad = without_gil(count * sizeof(Token) >= kReleaseBytes, [&] {
    return chain_blocks(key, parent, ids, count, block_tokens, digests);
  });
  if (bad != kAllTokensValid) {
    throw py::value_error("token " + std::to_string(bad) + " is " + std::to_string(ids[bad]) +
                          "; token ids go from 0 to 4294967295");
  }
  return result;
}

py::bytes chain_digests(const py::object& tokens, py::ssize_t block_tokens, const py::bytes& parent,
                        const py::bytes& key) {
  if (block_tokens < 1) {
    throw py::value_error("block_tokens must be at least 1, not " + std::to_string(block_tokens));
  }
  const auto parent_bytes = span_of(parent);
  Digest first;
  if (parent_bytes.size() != first.bytes.size()) {
    throw py::value_error("parent must be a digest of 32 bytes, not " +
                          std::to_string(parent_bytes.size()));
  }
  std::memcpy(first.bytes.data(), parent_bytes.data(), parent_bytes.size());
  const DigestKey digest_key(span_of(key));
  const Buffer buffer(tokens, PyBUF_FORMAT);
  const Py_buffer& view = buffer.view();
  const bool is_signed = buffer.holds("ilq");
  const bool is_unsigned = buffer.holds("ILQ");
  const auto block = static_cast<size_t>(block_tokens);
  if (view.ndim == 1 && view.itemsize == 4) {
    if (is_signed) return chain<int32_t>(buffer, block, first, digest_key);
    if (is_unsigned) return chain<uint32_t>(buffer, block, first, digest_key);
  }
  if (view.ndim == 1 && view.itemsize == 8) {
    if (is_signed) return chain<int64_t>(buffer, block, first, digest_key);
    if (is_unsigned) return chain<uint64_t>(buffer, block, first, digest_key);
  }
  throw py::type_error("tokens must be a 1-D buffer of 32- or 64-bit integers, not " +
                       std::to_string(view.ndim) + "-D of format '" + buffer.format() + "'");
}

uint32_t checksum(const py::object& data, uint32_t crc) {
  const Buffer buffer(data, PyBUF_SIMPLE);
  const auto bytes = buffer.bytes();
  return without_gil(bytes.size() >= kReleaseBytes,
                     [&] { return crc32c(crc, bytes.data(), bytes.size()); });
}

py::tuple policies() {
  py::list names;
  for (const std::string_view name : policy_names())
    names.append(py::str(name.data(), name.size()));
  return py::tuple(names);
}

}  // namespace

PYBIND11_MODULE(_core, module, py::mod_gil_not_used()) {
  module.doc() = "The native core of blatam_kv.";
  try {
    module.attr("__version__") = BLATAM_VERSION;
    (void)
        isa_from_env();  // a wrong BLATAM_KV_ISA is an error of the import, not of the first digest
  } catch (const std::invalid_argument& error) {
    throw py::import_error(error.what());
  }

  module.def(
      "isa", [] { return isa_name(isa()); },
      "The instruction set in use: baseline, avx2 or avx512.");
  module.def("policies", policies, "The names of the eviction policies.");
  module.def(
      "blake2b", digest_of, py::arg("data"), py::kw_only(), py::arg("key") = py::bytes(),
      py::arg("person") = py::bytes(),
      "Keyed BLAKE2b-256 (RFC 7693) of a buffer: 32 bytes, as hashlib.blake2b gives them.\n\n"
      "key: at most 64 bytes; person: at most 16. Raises ValueError if longer.");
  module.def("framed_digest", digest_of_fields, py::arg("fields"), py::kw_only(),
             py::arg("key") = py::bytes(), py::arg("person") = py::bytes(),
             "BLAKE2b-256 over each field's length (big-endian uint32) and bytes, so that no two\n"
             "lists of fields give the same input.");
  module.def("chain_digests", chain_digests, py::arg("tokens"), py::kw_only(),
             py::arg("block_tokens"), py::arg("parent"), py::arg("key") = py::bytes(),
             "The chained digest of each whole block of tokens: n_blocks * 32 bytes.\n\n"
             "tokens: 1-D contiguous buffer of 32- or 64-bit integers. Digest i covers digest i-1\n"
             "(parent for the first) and the block's ids as little-endian uint32.\n"
             "Raises TypeError for another buffer, ValueError for an id outside 0 ... 2**32-1.");
  module.def("crc32c", checksum, py::arg("data"), py::arg("crc") = 0,
             "CRC-32C of a buffer; pass the last result as crc to go on with the next piece.");

  add_arena(module);
  add_prefix_index(module);
  add_simulation(module);
  add_codecs(module);
  add_memory(module);
  add_paged(module);
  add_places(module);

  PyObject* cache = make_cache_type(module.ptr());
  if (cache == nullptr) throw py::error_already_set();
  module.attr("CacheBase") = py::reinterpret_steal<py::object>(cache);
}

}  // namespace blatam::python
