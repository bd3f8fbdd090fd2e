// blatam_kv._cuda: the kernels for Python. Answers are codes; text() says what they mean.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bindings/bus.h"
#include "bindings/chain_job.h"
#include "bindings/paged_job.h"

namespace py = pybind11;

namespace blatam::python {
namespace {

int run_cuda(bool store, int device, uintptr_t stream, uint8_t scheme, uint8_t element,
             const std::array<uint32_t, 3>& shape, const std::array<uint64_t, 3>& cache,
             const std::array<int64_t, 4>& strides, uint64_t seed, uint32_t blocks,
             const py::object& tensors, const std::array<uint64_t, 4>& memory,
             uint64_t block_stride, uint64_t payload_room) {
  const cuda::Job job = paged_job(scheme, element, shape, cache, strides, seed, blocks, tensors,
                                  memory, block_stride, payload_room);
  const py::gil_scoped_release released;
  return (store ? cuda::blatam_cuda_store : cuda::blatam_cuda_fetch)(
      &job, device, reinterpret_cast<void*>(stream));
}

py::tuple open_bus(int device, uint64_t pool_bytes, uint32_t buffers, uint64_t buffer_bytes) {
  return opened_bus([&](std::shared_ptr<cuda::Bus>* bus) {
    std::unique_ptr<cuda::Runtime> runtime;
    if (const int code = cuda::open_device_runtime(device, &runtime); code != cuda::kOk)
      return code;
    return cuda::Bus::open(std::move(runtime), {pool_bytes, buffers, buffer_bytes}, bus);
  });
}

int run_chains(int device, uintptr_t stream, const py::bytes& state, uint64_t counter,
               const std::array<uint8_t, 2>& types, const std::array<uint64_t, 6>& memory,
               uint64_t ids_count, const std::array<uint64_t, 2>& rows, uint32_t sequences,
               uint32_t block_tokens, const py::bytes& parent, uint64_t room) {
  const cuda::ChainJob job = chain_job(state, counter, types, memory, ids_count, rows, sequences,
                                       block_tokens, parent, room);
  const py::gil_scoped_release released;
  return cuda::blatam_cuda_chains_run(&job, device, reinterpret_cast<void*>(stream));
}

py::tuple versions() {
  int driver = 0;
  int runtime = 0;
  const int code = cuda::blatam_cuda_versions(&driver, &runtime);
  return py::make_tuple(code, driver, runtime);
}

py::tuple device_count() {
  int count = 0;
  const int code = cuda::blatam_cuda_device_count(&count);
  return py::make_tuple(code, count);
}

}  // namespace

PYBIND11_MODULE(_cuda, module, py::mod_gil_not_used()) {
  module.doc() = "The GPU kernels of blatam_kv.";
  module.attr("architectures") = cuda::blatam_cuda_architectures();
  module.attr("CUDA_ERROR") = static_cast<int>(cuda::kCudaError);
  module.def("text", &cuda::blatam_cuda_text, py::arg("code"), "What a code means.");
  module.def("versions", versions,
             "A code, and what CUDA driver and runtime call themselves; 0: there is no driver.");
  module.def("device_count", device_count, "A code, and how many devices there are.");
  module.def("run", run_cuda, py::arg("store"), py::arg("device"), py::arg("stream"),
             py::arg("scheme"), py::arg("element"), py::arg("shape"), py::arg("cache"),
             py::arg("strides"), py::arg("seed"), py::arg("blocks"), py::arg("tensors"),
             py::arg("memory"), py::arg("block_stride"), py::arg("payload_room"),
             "Queues a job on a stream of a device; a code.");
  add_bus(module);
  module.def("open_bus", open_bus, py::arg("device"), py::arg("pool_bytes"), py::arg("buffers"),
             py::arg("buffer_bytes"), "A bus on a device; a code, and the bus or None.");
  module.def("run_chains", run_chains, py::arg("device"), py::arg("stream"), py::arg("state"),
             py::arg("counter"), py::arg("types"), py::arg("memory"), py::arg("ids_count"),
             py::arg("rows"), py::arg("sequences"), py::arg("block_tokens"), py::arg("parent"),
             py::arg("room"), "Queues chains of digests on a stream of a device; a code.");
}

}  // namespace blatam::python
