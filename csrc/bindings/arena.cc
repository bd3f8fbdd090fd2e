#include "bindings/arena.h"

#include <cstdint>
#include <memory>
#include <new>
#include <utility>

#include "core/arena.h"

namespace py = pybind11;

namespace blatam::python {
namespace {

// A piece that gives itself back, and keeps its arena until then.
class OwnPiece {
 public:
  OwnPiece(std::shared_ptr<Arena> arena, size_t bytes)
      : arena_(std::move(arena)), piece_(arena_->take(bytes)) {
    if (piece_.data == nullptr) throw std::bad_alloc();
  }
  OwnPiece(const OwnPiece&) = delete;
  OwnPiece& operator=(const OwnPiece&) = delete;
  ~OwnPiece() { arena_->give(piece_); }

  void shrink(size_t bytes) {
    if (bytes > piece_.bytes) throw py::value_error("a piece can only become smaller");
    arena_->shrink(piece_, bytes);
  }

  [[nodiscard]] py::buffer_info buffer() const {
    return {piece_.data, static_cast<py::ssize_t>(piece_.bytes), false};
  }

 private:
  std::shared_ptr<Arena> arena_;
  Arena::Piece piece_;
};

}  // namespace

void add_arena(py::module_& module) {
  py::class_<OwnPiece>(module, "Piece", py::buffer_protocol(),
                       "Memory of an Arena, given back with the object; a writable buffer.")
      .def_buffer(&OwnPiece::buffer)
      .def("shrink", &OwnPiece::shrink, py::arg("size"),
           "Give back the end. Nobody may look at it any more.");

  py::class_<Arena, std::shared_ptr<Arena>>(
      module, "Arena",
      "Memory that payloads lie in (csrc/core/arena.h). size: addresses; spare: most bytes\n"
      "of what was given back that stay. Raises MemoryError.")
      .def(py::init<uint64_t, uint64_t>(), py::arg("size"), py::arg("spare"))
      .def_static("rounded", &Arena::rounded, py::arg("size"), "What a piece takes.")
      .def(
          "take",
          [](std::shared_ptr<Arena> arena, size_t size) {
            return std::make_unique<OwnPiece>(std::move(arena), size);
          },
          py::arg("size"), "A piece with unspecified content. Raises MemoryError.")
      .def_property_readonly("taken_bytes", &Arena::taken_bytes)
      .def_property_readonly("warm_bytes", &Arena::warm_bytes);
}

}  // namespace blatam::python
