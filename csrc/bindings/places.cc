#include "bindings/places.h"

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <system_error>
#include <vector>

#include "bindings/buffer.h"
#include "core/mapping.h"
#include "core/places.h"
#include "core/record.h"

namespace py = pybind11;

namespace blatam::python {
namespace {

Digest digest_of(const py::bytes& key) {
  Digest digest;
  const auto size = static_cast<size_t>(PyBytes_GET_SIZE(key.ptr()));
  if (size != digest.bytes.size()) {
    throw py::value_error("a key is a digest of 32 bytes, not of " + std::to_string(size));
  }
  std::memcpy(digest.bytes.data(), PyBytes_AS_STRING(key.ptr()), size);
  return digest;
}

Place place_of(uint64_t segment, uint32_t offset, uint32_t size) {
  const Place place{segment, offset, size};
  if (!place.valid()) {
    throw py::value_error("no record can lie in segment " + std::to_string(segment) + " at " +
                          std::to_string(offset) + " with " + std::to_string(size) + " bytes");
  }
  return place;
}

py::tuple tuple_of(const Place& place) {
  return py::make_tuple(place.segment, place.offset, place.size);
}

py::object find(const Places& places, const py::bytes& key) {
  const auto place = places.find(digest_of(key));
  return place ? py::object(tuple_of(*place)) : py::none();
}

py::list in_order(const Places& places) {
  const auto entries = without_gil(true, [&] { return places.in_order(); });
  py::list list(entries.size());
  for (size_t i = 0; i < entries.size(); ++i) {
    const auto& [key, place] = entries[i];
    const py::bytes name(reinterpret_cast<const char*>(key.bytes.data()), key.bytes.size());
    list[i] = py::make_tuple(name, tuple_of(place));
  }
  return list;
}

size_t save(const Places& places, const py::object& out) {
  const Buffer buffer(out, PyBUF_WRITABLE);
  const std::span<uint8_t> bytes(static_cast<uint8_t*>(buffer.view().buf),
                                 static_cast<size_t>(buffer.view().len));
  return without_gil(true, [&] { return places.save(bytes); });
}

bool load(Places& places, const py::object& saved) {
  const Buffer buffer(saved, PyBUF_SIMPLE);
  return without_gil(true, [&] { return places.load(buffer.bytes()); });
}

uint64_t take(Places& places, const py::object& window, uint64_t segment, uint64_t offset,
              uint64_t end) {
  const Buffer buffer(window, PyBUF_SIMPLE);
  if (offset > end) throw py::value_error("the window begins behind the end");
  return without_gil(buffer.bytes().size() >= kReleaseBytes,
                     [&] { return places.take(buffer.bytes(), segment, offset, end); });
}

// An intact record's fields with payload and tokens copied, or None for anything else.
py::object read_record(const py::object& record) {
  const Buffer buffer(record, PyBUF_SIMPLE);
  const auto bytes = buffer.bytes();
  if (bytes.size() < kRecordHeaderBytes) return py::none();
  const auto header = read_record_header(bytes.data());
  if (!header || header->record_bytes() != bytes.size()) return py::none();
  const auto payload = py::reinterpret_steal<py::bytes>(
      PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(header->payload_bytes)));
  if (!payload) throw py::error_already_set();
  auto* const to = reinterpret_cast<uint8_t*>(PyBytes_AS_STRING(payload.ptr()));
  const bool intact =
      without_gil(bytes.size() >= kReleaseBytes, [&] { return copy_payload(*header, to); });
  if (!intact) return py::none();
  const auto text = [](const uint8_t* from, size_t size) {
    return py::bytes(reinterpret_cast<const char*>(from), size);
  };
  return py::make_tuple(text(header->key().data(), 32), header->kind, payload,
                        text(header->tags().data(), 32), text(header->codec().data(), 16),
                        text(bytes.data() + kRecordHeaderBytes, size_t{4} * header->token_count),
                        header->created_us(), header->expires_us());
}

std::unique_ptr<Mapping> map(int descriptor, size_t bytes) {
  if (bytes == 0) throw py::value_error("a mapping has at least one byte");
  try {
    return std::make_unique<Mapping>(descriptor, bytes);
  } catch (const std::system_error& error) {
    errno = error.code().value();
    PyErr_SetFromErrno(PyExc_OSError);
    throw py::error_already_set();
  }
}

py::buffer_info buffer_of(Mapping& mapping) {
  const auto bytes = mapping.bytes();
  return {const_cast<uint8_t*>(bytes.data()), static_cast<py::ssize_t>(bytes.size()),
          /*readonly=*/true};
}

}  // namespace

void add_places(py::module_& module) {
  py::class_<Places>(module, "Places",
                     "Where in the segments of a disk tier the last record of each key lies.\n\n"
                     "A place is (segment, offset, size); keys are digests. Safe from any thread.")
      .def(py::init())
      .def("__len__", &Places::size)
      .def(
          "__contains__",
          [](const Places& places, const py::bytes& key) {
            return places.find(digest_of(key)).has_value();
          },
          py::arg("key"))
      .def("find", find, py::arg("key"), "The key's place, or None.")
      .def(
          "set",
          [](Places& places, const py::bytes& key, uint64_t segment, uint32_t offset,
             uint32_t size) { places.set(digest_of(key), place_of(segment, offset, size)); },
          py::arg("key"), py::arg("segment"), py::arg("offset"), py::arg("size"),
          "The key's record lies there now, and was not read yet.")
      .def(
          "use",
          [](Places& places, const py::bytes& key, uint64_t segment, uint32_t offset,
             uint32_t size) { places.use(digest_of(key), Place{segment, offset, size}); },
          py::arg("key"), py::arg("segment"), py::arg("offset"), py::arg("size"),
          "The record was read, if it still lies there.")
      .def(
          "used",
          [](const Places& places, const py::bytes& key) { return places.used(digest_of(key)); },
          py::arg("key"), "Whether the key's record was read since it was written there.")
      .def(
          "forget",
          [](Places& places, const py::bytes& key) { return places.forget(digest_of(key)); },
          py::arg("key"), "Drop the key; returns whether it was there.")
      .def(
          "forget_at",
          [](Places& places, const py::bytes& key, uint64_t segment, uint32_t offset,
             uint32_t size) { return places.forget(digest_of(key), Place{segment, offset, size}); },
          py::arg("key"), py::arg("segment"), py::arg("offset"), py::arg("size"),
          "Drop the key if its record lies there; returns whether it did.")
      .def(
          "forget_segments",
          [](Places& places, const py::object& segments) {
            const Buffer buffer(segments, PyBUF_FORMAT);
            if (!buffer.holds("QL") || buffer.view().itemsize != 8) {
              throw py::type_error("segments must be a buffer of 64-bit unsigned integers");
            }
            return without_gil(true,
                               [&] { return places.forget_segments(buffer.items<uint64_t>()); });
          },
          py::arg("segments"), "Drop the keys whose records lie in these; returns how many.")
      .def("clear", &Places::clear, "Drop every key.")
      .def("in_order", in_order, "Every (key, place), in the order of writing.")
      .def_property_readonly("saved_bytes", &Places::saved_bytes)
      .def("save", save, py::arg("out"),
           "Write as many whole entries of 48 bytes as fit; returns the bytes written.")
      .def("load", load, py::arg("saved"),
           "Set what save() wrote. False, and nothing is set, if an entry is no valid place.")
      .def("take", take, py::arg("window"), py::arg("segment"), py::arg("offset"), py::arg("end"),
           "Index the intact records whose headers lie in a window of a segment's file, which\n"
           "begins at offset; returns where the first one begins that was not taken.")
      .def_property_readonly("memory_bytes", &Places::memory_bytes);

  module.def(
      "read_record", read_record, py::arg("record"),
      "(key, kind, payload, tags, codec, tokens, created_us, expires_us) of an intact record,\n"
      "payload and tokens copied; None for anything else. A MAC is not looked at.");

  py::class_<Mapping>(module, "Mapping", py::buffer_protocol(),
                      "The first bytes of an open file, read-only; a buffer.\n\n"
                      "bytes may be more than the file has. Reading what was not populated may\n"
                      "kill the process. Raises OSError.")
      .def(py::init(&map), py::arg("descriptor"), py::arg("bytes"))
      .def_buffer(buffer_of)
      .def(
          "populate",
          [](const Mapping& mapping, size_t offset, size_t bytes) {
            return without_gil(true, [&] { return mapping.populate(offset, bytes); });
          },
          py::arg("offset"), py::arg("bytes"), "Read a part in; whether it can be touched now.");
}

}  // namespace blatam::python
