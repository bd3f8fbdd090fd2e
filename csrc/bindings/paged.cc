#include "bindings/paged.h"

#include <pybind11/stl.h>

#include "bindings/bus.h"
#include "bindings/chain_job.h"
#include "bindings/paged_job.h"
#include "core/digest.h"
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

py::tuple fp8_tables(uint8_t element) {
  std::array<uint16_t, 256> patterns{};
  std::string bytes(65536, '\0');
  if (!cuda::blatam_paged_fp8(static_cast<cuda::Element>(element), patterns.data(),
                              reinterpret_cast<uint8_t*>(bytes.data())))
    throw py::value_error("this element is not fp8");
  return py::make_tuple(py::bytes(reinterpret_cast<const char*>(patterns.data()), sizeof patterns),
                        py::bytes(bytes));
}

int run_chains(const py::bytes& state, uint64_t counter, const std::array<uint8_t, 2>& types,
               const std::array<uint64_t, 6>& memory, uint64_t ids_count,
               const std::array<uint64_t, 2>& rows, uint32_t sequences, uint32_t block_tokens,
               const py::bytes& parent, uint64_t room) {
  const cuda::ChainJob job = chain_job(state, counter, types, memory, ids_count, rows, sequences,
                                       block_tokens, parent, room);
  const py::gil_scoped_release released;
  return cuda::blatam_chains_run(&job);
}

// Where a message under a key begins, as words in this machine's order.
py::tuple digest_state(const py::bytes& key) {
  const DigestKey prepared({reinterpret_cast<const uint8_t*>(PyBytes_AS_STRING(key.ptr())),
                            static_cast<size_t>(PyBytes_GET_SIZE(key.ptr()))});
  const auto& words = prepared.state();
  return py::make_tuple(
      py::bytes(reinterpret_cast<const char*>(words.data()), sizeof(uint64_t) * words.size()),
      prepared.counter());
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
  module.def("run_chains", run_chains, py::arg("state"), py::arg("counter"), py::arg("types"),
             py::arg("memory"), py::arg("ids_count"), py::arg("rows"), py::arg("sequences"),
             py::arg("block_tokens"), py::arg("parent"), py::arg("room"),
             "Chains of digests over ids in host memory; 0, or what is wrong.");
  module.def("chains_text", &cuda::blatam_chains_text, py::arg("code"), "What a code means.");
  module.def("digest_state", digest_state, py::arg("key"),
             "The state in which a message under a key begins, and the bytes hashed until there;\n"
             "as secret as the key. Raises ValueError for more than 64 bytes.");
  module.def("fp8_tables", fp8_tables, py::arg("element"),
             "What the bytes of an fp8 cache count as (256 bfloat16 as uint16), and the byte that\n"
             "each bfloat16 becomes (65,536 bytes).");
  module.def("paged_text", &cuda::blatam_paged_text, py::arg("code"), "What a code means.");
}

}  // namespace blatam::python
