#include "bindings/simulation.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "bindings/buffer.h"
#include "core/simulate.h"
#include "core/trace.h"

namespace py = pybind11;

namespace blatam::python {
namespace {

using Kind = Trace::Kind;
using Taken = std::tuple<size_t, std::string>;

Numbers numbers_of(const Buffer& buffer, const char* what) {
  const Py_buffer& view = buffer.view();
  const bool is_signed = buffer.holds("bhilq");
  if (view.ndim != 1 || !(is_signed || buffer.holds("BHILQ"))) {
    throw py::type_error(std::string(what) + " must be a 1-D buffer of integers, not " +
                         std::to_string(view.ndim) + "-D of format '" + buffer.format() + "'");
  }
  const auto width = static_cast<size_t>(view.itemsize);
  return {view.buf, buffer.bytes().size() / width, width, is_signed};
}

void require(bool condition, const char* otherwise) {
  if (!condition) throw py::value_error(otherwise);
}

Taken answer(const Trace::Added& added) {
  return {added.taken, std::string(fault_text(added.fault))};
}

Taken add(Trace& trace, const py::object& ids) {
  require(trace.kind() == Kind::kObjects, "this trace is not one of objects without sizes");
  const Buffer buffer(ids, PyBUF_FORMAT);
  const Numbers numbers = numbers_of(buffer, "ids");
  return answer(without_gil(true, [&] { return trace.add(numbers); }));
}

Taken add_sized(Trace& trace, const py::object& ids, const py::object& sizes) {
  require(trace.kind() == Kind::kSizedObjects, "this trace is not one of sized objects");
  const Buffer id_buffer(ids, PyBUF_FORMAT);
  const Buffer size_buffer(sizes, PyBUF_FORMAT);
  const Numbers numbers = numbers_of(id_buffer, "ids");
  const Numbers bytes = numbers_of(size_buffer, "sizes");
  require(numbers.size() == bytes.size(), "there must be as many sizes as ids");
  return answer(without_gil(true, [&] { return trace.add(numbers, bytes); }));
}

Taken add_prompt(Trace& trace, const py::object& ids) {
  require(trace.kind() == Kind::kPrefixes, "this trace is not one of prefixes");
  const Buffer buffer(ids, PyBUF_FORMAT);
  return answer(trace.add_prompt(numbers_of(buffer, "ids")));
}

std::vector<std::tuple<uint64_t, uint64_t, uint64_t, uint64_t>> tallies(const Replay& replay) {
  std::vector<std::tuple<uint64_t, uint64_t, uint64_t, uint64_t>> rows;
  for (const Tally& tally : replay.tallies()) {
    rows.emplace_back(tally.requests, tally.hits, tally.bytes_requested, tally.bytes_hit);
  }
  return rows;
}

// In the order of Kind.
constexpr const char* kKinds[] = {"objects", "sized", "prefixes"};

Kind kind_of(const std::string& name) {
  const auto* found = std::find(std::begin(kKinds), std::end(kKinds), name);
  require(found != std::end(kKinds), "a trace is of objects, sized or prefixes");
  return static_cast<Kind>(found - kKinds);
}

}  // namespace

void add_simulation(py::module_& module) {
  py::class_<Trace>(module, "Trace",
                    "Requests with their objects numbered. One thread at a time.\n\n"
                    "kind: objects, sized or prefixes. What adds returns how many ids were taken\n"
                    "and, if not all, what is wrong with the next.")
      .def(py::init([](const std::string& kind) { return Trace(kind_of(kind)); }), py::arg("kind"))
      .def("add", add, py::arg("ids"), "One request for each id.")
      .def("add_sized", add_sized, py::arg("ids"), py::arg("sizes"),
           "One request for each id, of so many bytes.")
      .def("add_prompt", add_prompt, py::arg("ids"), "One prompt of these blocks.")
      .def_property_readonly("kind",
                             [](const Trace& t) { return kKinds[static_cast<size_t>(t.kind())]; })
      .def_property_readonly("requests", &Trace::requests)
      .def_property_readonly("prompts",
                             [](const Trace& trace) { return trace.prompt_ends().size(); })
      .def_property_readonly("unique", &Trace::unique)
      .def_property_readonly("unique_bytes", &Trace::unique_bytes);

  py::class_<Replay>(module, "Replay",
                     "Contestants (policy, capacity), belady among them, on one trace.\n\n"
                     "Raises ValueError for an unknown policy or a capacity of 0. One thread at a\n"
                     "time.")
      .def(py::init([](const Trace& trace,
                       const std::vector<std::tuple<std::string, uint64_t>>& contestants,
                       double decay, double window, double interval, size_t shadows) {
             std::vector<Contestant> all;
             for (const auto& [policy, capacity] : contestants) {
               all.push_back({policy, capacity, {decay, window, shadows, interval}});
             }
             return std::make_unique<Replay>(trace, all);
           }),
           py::arg("trace"), py::arg("contestants"), py::kw_only(), py::arg("decay"),
           py::arg("window"), py::arg("interval"), py::arg("shadows"), py::keep_alive<1, 2>())
      .def(
          "advance",
          [](Replay& replay, size_t requests) {
            return without_gil(true, [&] { return replay.advance(requests); });
          },
          py::arg("requests"), "Replay so many more requests; returns how many were in all.")
      .def("tallies", tallies,
           "(requests, hits, bytes requested, bytes hit) of each contestant so far.");
}

}  // namespace blatam::python
