#include "bindings/paged.h"

#include <pybind11/stl.h>

#include "bindings/bus.h"
#include "bindings/paged_job.h"
#include "cuda/host_runtime.h"

namespace py = pybind11;

namespace blatam::python {
namespace {

template <class... Arguments>
int run(int (*job_function)(const cuda::Job*), Arguments&&... arguments) {
  const cuda::Job job = paged_job(std::forward<Arguments>(arguments)...);
  const py::gil_scoped_release released;
  return job_function(&job);
}

int run_paged(bool store, uint8_t scheme, uint8_t element, const std::array<uint32_t, 3>& shape,
              const std::array<uint64_t, 3>& cache, const std::array<int64_t, 4>& strides,
              uint64_t seed, uint32_t blocks, const py::object& tensors,
              const std::array<uint64_t, 4>& memory, uint64_t block_stride, uint64_t payload_room) {
  return run(store ? cuda::blatam_paged_store : cuda::blatam_paged_fetch, scheme, element, shape,
             cache, strides, seed, blocks, tensors, memory, block_stride, payload_room);
}

py::tuple sizes(uint8_t scheme, uint8_t element, const std::array<uint32_t, 3>& shape) {
  cuda::Job job = {};
  job.scheme = static_cast<cuda::Scheme>(scheme);
  job.element = static_cast<cuda::Element>(element);
  job.tokens = shape[0];
  job.kv_heads = shape[1];
  job.head_dim = shape[2];
  job.block_tokens = 1;
  job.run = shape[2];
  return py::make_tuple(cuda::blatam_paged_fixed_bytes(&job), cuda::blatam_paged_most_bytes(&job));
}

py::tuple open_host_bus(uint64_t pool_bytes, uint32_t buffers, uint64_t buffer_bytes, bool lazy) {
  using cuda::HostRuntime;
  return opened_bus([&](std::shared_ptr<cuda::Bus>* bus) {
    const auto order = lazy ? HostRuntime::Order::lazy : HostRuntime::Order::threads;
    return cuda::Bus::open(std::make_unique<HostRuntime>(order),
                           {pool_bytes, buffers, buffer_bytes}, bus);
  });
}

}  // namespace

void add_paged(py::module_& module) {
  add_bus(module);
  module.def("open_host_bus", open_host_bus, py::arg("pool_bytes"), py::arg("buffers"),
             py::arg("buffer_bytes"), py::arg("lazy"),
             "A bus on the host; a code, and the bus or None. lazy: nothing is done before it is\n"
             "waited for.");
  module.def("run_paged", run_paged, py::arg("store"), py::arg("scheme"), py::arg("element"),
             py::arg("shape"), py::arg("cache"), py::arg("strides"), py::arg("seed"),
             py::arg("blocks"), py::arg("tensors"), py::arg("memory"), py::arg("block_stride"),
             py::arg("payload_room"),
             "Stores from or fetches into a paged cache in host memory; 0, or what is wrong.");
  module.def("paged_sizes", sizes, py::arg("scheme"), py::arg("element"), py::arg("shape"),
             "The least and the most bytes of a payload without escapes; zeros where there is\n"
             "no kernel for the shape.");
  module.def("paged_text", &cuda::blatam_paged_text, py::arg("code"), "What a code means.");
}

}  // namespace blatam::python
