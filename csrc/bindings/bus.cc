#include "bindings/bus.h"

#include <pybind11/stl.h>

#include <deque>
#include <utility>
#include <vector>

#include "bindings/paged_job.h"
#include "cuda/host_runtime.h"

namespace py = pybind11;

namespace blatam::python {
namespace {

using cuda::Bus;
using cuda::DevicePiece;
using cuda::Pieces;

// A mark that keeps its bus.
struct KeptMark {
  std::shared_ptr<Bus> bus;
  std::shared_ptr<cuda::Mark> mark;
};

Bus::Stream stream_at(uintptr_t stream) { return reinterpret_cast<Bus::Stream>(stream); }

py::tuple take(Bus& bus, uint64_t bytes, bool wait) {
  std::shared_ptr<DevicePiece> piece;
  int code;
  {
    const py::gil_scoped_release released;
    code = bus.take(bytes, wait, &piece);
  }
  return py::make_tuple(code, piece);
}

py::tuple up(
    const std::shared_ptr<Bus>& bus,
    const std::vector<std::tuple<py::object, std::shared_ptr<DevicePiece>, uint64_t>>& parts) {
  std::deque<Buffer> buffers;
  std::vector<Bus::Part> given;
  for (const auto& [from, piece, at] : parts)
    given.push_back({buffers.emplace_back(from, PyBUF_SIMPLE).bytes(), piece, at});
  std::shared_ptr<cuda::Mark> done;
  int code;
  {
    const py::gil_scoped_release released;
    code = bus->up(given, &done);
  }
  return py::make_tuple(code, KeptMark{bus, done});
}

int down(Bus& bus, const std::shared_ptr<DevicePiece>& piece, uint64_t at, const py::object& to) {
  const Buffer buffer(to, PyBUF_WRITABLE);
  const std::span<uint8_t> room = {static_cast<uint8_t*>(buffer.view().buf),
                                   static_cast<size_t>(buffer.view().len)};
  const py::gil_scoped_release released;
  return bus.down(piece, at, room);
}

py::tuple run(const std::shared_ptr<Bus>& bus, bool store, const Pieces& pieces, uint64_t places,
              uint8_t scheme, uint8_t element, const std::array<uint32_t, 3>& shape,
              const std::array<uint64_t, 3>& cache, const std::array<int64_t, 4>& strides,
              uint64_t seed, uint32_t blocks, const py::object& tensors,
              const std::array<uint64_t, 4>& memory, uint64_t block_stride, uint64_t payload_room) {
  cuda::Job job = paged_job(scheme, element, shape, cache, strides, seed, blocks, tensors, memory,
                            block_stride, payload_room);
  job.places = reinterpret_cast<const uint64_t*>(places);
  std::shared_ptr<cuda::Mark> done;
  int code;
  {
    const py::gil_scoped_release released;
    code = bus->run(job, store, pieces, &done);
  }
  return py::make_tuple(code, KeptMark{bus, done});
}

py::tuple traffic(const Bus& bus) {
  const Bus::Traffic now = bus.traffic();
  return py::make_tuple(now.up_bytes, now.down_bytes, now.up_waits, now.up_busy, now.down_busy,
                        now.buffers);
}

// Only a host can be told to fail.
void fail_after(Bus& bus, uint64_t calls, int code, bool forever) {
  auto* const runtime = dynamic_cast<cuda::HostRuntime*>(&bus.runtime());
  if (runtime == nullptr) throw py::type_error("only a bus of the host fails when it is told to");
  runtime->fail_after(calls, code, forever);
}

}  // namespace

void add_bus(py::module_& module) {
  using Released = py::call_guard<py::gil_scoped_release>;

  py::class_<DevicePiece, std::shared_ptr<DevicePiece>>(
      module, "DevicePiece", py::module_local(),
      "Memory of a device, given back with the object, whatever is under way there.")
      .def_property_readonly("at", &DevicePiece::at, "Where it begins in the pool.")
      .def_property_readonly("bytes", &DevicePiece::bytes)
      .def_property_readonly("address", [](const DevicePiece& piece) {
        return reinterpret_cast<uintptr_t>(piece.data());
      });

  py::class_<KeptMark>(module, "Mark", py::module_local(), "A point in the work of a stream.")
      .def(
          "hold",
          [](const KeptMark& kept, uintptr_t stream) { return kept.mark->hold(stream_at(stream)); },
          py::arg("stream"), Released(), "Let a stream wait for it; a code.")
      .def(
          "wait", [](const KeptMark& kept) { return kept.mark->await(); }, Released(),
          "Wait for it; a code.");

  py::class_<Bus, std::shared_ptr<Bus>>(
      module, "Bus", py::module_local(),
      "The memory of one device that is ours, and the way there and back (csrc/cuda/bus.h).")
      .def_property_readonly("device", [](Bus& bus) { return bus.runtime().device(); })
      .def_property_readonly("pool_bytes", [](const Bus& bus) { return bus.pool().bytes(); })
      .def_property_readonly("taken_bytes", [](const Bus& bus) { return bus.pool().taken_bytes(); })
      .def_property_readonly("broken", &Bus::broken, "0, or the code of every later call.")
      .def("traffic", traffic,
           "Bytes up and down, waits for a buffer on the way up, buffers under way up and down, "
           "and how many each direction has.")
      .def_property_readonly(
          "address", [](const Bus& bus) { return reinterpret_cast<uintptr_t>(bus.pool().base()); })
      .def_static("rounded", &cuda::Pool::rounded, py::arg("size"), "What a piece takes.")
      .def("take", take, py::arg("size"), py::arg("wait"), "A code, and a piece or None.")
      .def("up", up, py::arg("parts"),
           "Copy (buffer, piece, at) to the device; a code, and when all of it is there.")
      .def("down", down, py::arg("piece"), py::arg("at"), py::arg("out"),
           "Copy from the device and wait for it; a code.")
      .def("run", run, py::arg("store"), py::arg("pieces"), py::arg("places"), py::arg("scheme"),
           py::arg("element"), py::arg("shape"), py::arg("cache"), py::arg("strides"),
           py::arg("seed"), py::arg("blocks"), py::arg("tensors"), py::arg("memory"),
           py::arg("block_stride"), py::arg("payload_room"),
           "Queue a job on the bus's own stream; a code, and when it is done.")
      .def(
          "follow", [](Bus& bus, uintptr_t stream) { return bus.follow(stream_at(stream)); },
          py::arg("stream"), Released(), "Let the bus's stream wait for another; a code.")
      .def(
          "lend",
          [](Bus& bus, const Pieces& pieces, uintptr_t stream) {
            return bus.lend(pieces, stream_at(stream));
          },
          py::arg("pieces"), py::arg("stream"), Released(),
          "Let a stream wait until pieces hold what was written to them; a code.")
      .def(
          "lent",
          [](Bus& bus, const Pieces& pieces, uintptr_t stream) {
            return bus.lent(pieces, stream_at(stream));
          },
          py::arg("pieces"), py::arg("stream"), Released(),
          "What that stream was given uses them; a code.")
      .def("close", &Bus::close, Released(), "Wait for what is under way and refuse all else.")
      .def("fail_after", fail_after, py::arg("calls"), py::arg("code"), py::arg("forever"),
           "For tests: after so many calls of its runtime, let one or all fail.");
}

}  // namespace blatam::python
