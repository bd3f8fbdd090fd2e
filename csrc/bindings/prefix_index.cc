#include "bindings/prefix_index.h"

#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/buffer.h"
#include "core/prefix_index.h"

namespace py = pybind11;

namespace blatam::python {
namespace {

// An index, and the vectors that its answers are written to. The GIL serialises the calls.
struct Index {
  Index(uint64_t capacity_bytes, const std::string& policy)
      : index(checked(capacity_bytes), policy) {}

  static uint64_t checked(uint64_t capacity_bytes) {
    if (capacity_bytes == 0) throw py::value_error("capacity_bytes must be at least 1");
    return capacity_bytes;
  }

  PrefixIndex index;
  std::vector<Slot> slots;
  std::vector<Slot> evicted;
};

// Names lie one behind the other; a Digest is 32 bytes without alignment, so they serve in place.
static_assert(sizeof(Digest) == 32 && alignof(Digest) == 1);

std::span<const Digest> names_of(const Buffer& buffer) {
  if (buffer.bytes().size() % sizeof(Digest) != 0) {
    throw py::value_error("names must be digests of 32 bytes, one behind the other");
  }
  return buffer.items<Digest>();
}

Digest name_of(const py::bytes& name) {
  const Buffer buffer(name, PyBUF_SIMPLE);
  const auto names = names_of(buffer);
  if (names.size() != 1) throw py::value_error("a name must be a digest of 32 bytes");
  return names.front();
}

py::bytes answer(const std::vector<Slot>& slots) {
  return {reinterpret_cast<const char*>(slots.data()), slots.size() * sizeof(Slot)};
}

py::bytes find(Index& self, const py::object& names) {
  const Buffer buffer(names, PyBUF_SIMPLE);
  self.slots.clear();
  self.index.find(names_of(buffer), self.slots);
  return answer(self.slots);
}

void use(Index& self, const py::bytes& last, const py::object& names) {
  const Buffer buffer(names, PyBUF_SIMPLE);
  self.index.use(name_of(last), names_of(buffer));
}

std::tuple<size_t, py::bytes, py::bytes> add(Index& self, const py::bytes& last,
                                             const py::bytes& parent, bool root,
                                             const py::object& names, const py::object& weights,
                                             bool planned) {
  const Buffer name_buffer(names, PyBUF_SIMPLE);
  const Buffer weight_buffer(weights, PyBUF_FORMAT);
  const auto all = names_of(name_buffer);
  const auto sizes = weight_buffer.items<uint64_t>();
  if (weight_buffer.view().itemsize != sizeof(uint64_t) || sizes.size() != all.size()) {
    throw py::value_error("weights must be 64-bit integers, as many as names");
  }
  self.evicted.clear();
  const size_t old = self.index.add(name_of(last), name_of(parent), root, all, sizes, planned,
                                    self.slots, self.evicted);
  return {old, answer(self.slots), answer(self.evicted)};
}

std::pair<py::object, py::bytes> fill(Index& self, const py::bytes& name, uint64_t weight) {
  self.evicted.clear();
  const Slot slot = self.index.fill(name_of(name), weight, self.evicted);
  return {slot == kNoSlot ? py::object(py::none()) : py::int_(slot), answer(self.evicted)};
}

void abandon(Index& self, const py::object& names) {
  const Buffer buffer(names, PyBUF_SIMPLE);
  self.index.abandon(names_of(buffer));
}

py::object remove(Index& self, const py::bytes& name) {
  const Slot slot = self.index.remove(name_of(name));
  return slot == kNoSlot ? py::object(py::none()) : py::int_(slot);
}

py::bytes followers(Index& self, const py::bytes& parent, bool root, size_t most) {
  self.slots.clear();
  self.index.followers(name_of(parent), root, most, self.slots);
  return answer(self.slots);
}

py::bytes save(const Index& self, size_t most) {
  const std::vector<uint8_t> bytes = self.index.save(most);
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

py::object restore(Index& self, const py::object& bytes) {
  const Buffer buffer(bytes, PyBUF_SIMPLE);
  const char* const wrong = self.index.restore(buffer.bytes());
  return wrong == nullptr ? py::object(py::none()) : py::str(wrong);
}

py::bytes resize(Index& self, uint64_t capacity_bytes) {
  self.evicted.clear();
  self.index.resize(Index::checked(capacity_bytes), self.evicted);
  return answer(self.evicted);
}

}  // namespace

void add_prefix_index(py::module_& module) {
  py::class_<Index>(
      module, "PrefixIndex",
      "Which blocks of prompts stay in memory (csrc/core/prefix_index.h).\n\n"
      "Names are digests, 32 bytes each, one behind the other. Slots are answered as\n"
      "uint32, one behind the other. Raises ValueError for an unknown policy.")
      .def(py::init<uint64_t, const std::string&>(), py::arg("capacity_bytes"), py::arg("policy"))
      .def("find", find, py::arg("names"), "Slots of the leading names that are here.")
      .def("use", use, py::arg("last"), py::arg("names"),
           "A request for a prompt that ends with a block: a use of each of these that is here.")
      .def("add", add, py::arg("last"), py::arg("parent"), py::arg("root"), py::arg("names"),
           py::arg("weights"), py::arg("planned") = false,
           "Insert successive blocks. How many of them were here, the slots of those that are\n"
           "now, and of what left for them.")
      .def("fill", fill, py::arg("name"), py::arg("weight"),
           "A planned block is there: its slot, None if it has none now, and those of what left.")
      .def("abandon", abandon, py::arg("names"), "What is still planned of these leaves.")
      .def(
          "pin", [](Index& self, const py::bytes& name) { return self.index.pin(name_of(name)); },
          py::arg("name"), "Keep a block and what is before it; False if it is not here.")
      .def(
          "unpin",
          [](Index& self, const py::bytes& name) { return self.index.unpin(name_of(name)); },
          py::arg("name"), "Undo one pin; False if there is none.")
      .def("remove", remove, py::arg("name"),
           "Take a block out; its slot, None if it is not here or another one continues it.")
      .def("followers", followers, py::arg("parent"), py::arg("root"), py::arg("most"),
           "Slots of what continues a block, or begins under a root, the newest first.")
      .def("save", save, py::arg("most"),
           "What is known of at most so many blocks, and what the policy learned.")
      .def(
          "restore", restore, py::arg("saved"),
          "Teach an index that was never used what save() wrote; what is wrong with that, or None.")
      .def("resize", resize, py::arg("capacity_bytes"), "A new bound; slots of what left for it.")
      .def_property_readonly("capacity_bytes",
                             [](const Index& self) { return self.index.capacity_bytes(); })
      .def_property_readonly("used_bytes", [](const Index& self) { return self.index.bytes(); })
      .def_property_readonly("entries", [](const Index& self) { return self.index.entries(); })
      .def_property_readonly("pinned", [](const Index& self) { return self.index.pinned(); })
      .def_property_readonly("memory_bytes",
                             [](const Index& self) { return self.index.memory_bytes(); });
}

}  // namespace blatam::python
