// Every kernel on every instruction set this machine has, beside two copies of the same bytes: the
// C library's, and one that writes around the caches. Speeds are of uncompressed bytes. The tensor
// is larger than any cache: 64 MiB of bfloat16 [tokens, 8, 128], or as many values of another type.
// Each benchmark first compares its output with the baseline's on the same input.
#include <benchmark/benchmark.h>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "core/isa.h"
#include "kernels/arithmetic.h"
#include "kernels/kernels.h"
#include "kernels/signs.h"

namespace blatam {
namespace {

constexpr size_t kHeads = 8;
constexpr size_t kHeadDim = 128;
constexpr size_t kTokens = size_t{32} << 10;
constexpr size_t kValues = kTokens * kHeads * kHeadDim;
constexpr const char* kDtypes[] = {"bf16", "fp16", "fp32"};

// Memory that begins at a multiple of 64 bytes, as torch and this package allocate it.
class Bytes {
 public:
  explicit Bytes(size_t size) : size_(size), data_(allocate(size), std::free) {
    std::memset(data_.get(), 1, size);
  }
  uint8_t* data() const { return data_.get(); }
  size_t size() const { return size_; }

 private:
  static uint8_t* allocate(size_t size) {
    return static_cast<uint8_t*>(std::aligned_alloc(64, (size + 63) / 64 * 64));
  }
  size_t size_;
  std::unique_ptr<uint8_t, decltype(&std::free)> data_;
};

// Normal values of each type, made once.
const Bytes& tensor(Dtype dtype) {
  static const std::vector<Bytes> all = [] {
    std::vector<Bytes> made;
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    std::vector<float> values(size_t{1} << 16);
    for (float& value : values) value = normal(random);
    for (const Dtype each : {Dtype::bf16, Dtype::fp16, Dtype::fp32}) {
      const size_t size = dtype_bytes(each);
      Bytes bytes(kValues * size);
      for (size_t i = 0; i < kValues; ++i) {
        const float value = values[i % values.size()];
        uint8_t* const to = bytes.data() + i * size;
        if (each == Dtype::bf16) store_bits(to, Bf16::narrow(value));
        if (each == Dtype::fp16) store_bits(to, Fp16::narrow(value));
        if (each == Dtype::fp32) store_bits(to, Fp32::narrow(value));
      }
      made.push_back(std::move(bytes));
    }
    return made;
  }();
  return all[static_cast<size_t>(dtype)];
}

void report(benchmark::State& state, Dtype dtype) {
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(kValues * dtype_bytes(dtype)));
}

// A kernel over the whole tensor: from `in` (nullptr: the tensor itself) to `out`.
using Run = std::function<void(const Kernels&, const uint8_t* in, uint8_t* out)>;

struct Subject {
  std::string name;
  Dtype dtype;
  size_t out_bytes;
  Run run;
  // Where the input is what another kernel writes.
  size_t in_bytes = 0;
  Run make_input;
};

// Compares what is written with the baseline's output, the first time, then times it.
void measure(benchmark::State& state, const Kernels& kernels, const Subject& subject) {
  const Bytes in(subject.in_bytes);
  const Bytes out(subject.out_bytes);
  if (subject.make_input) subject.make_input(kernels, nullptr, in.data());
  static std::set<std::string> compared;
  if (compared.insert(subject.name + kernels.isa).second) {
    const Bytes expected(subject.out_bytes);
    subject.run(kernels, in.data(), out.data());
    subject.run(kKernelsBaseline, in.data(), expected.data());
    if (std::memcmp(out.data(), expected.data(), subject.out_bytes) != 0) {
      state.SkipWithError("differs from the baseline");
      return;
    }
  }
  for (auto _ : state) {
    subject.run(kernels, in.data(), out.data());
    benchmark::ClobberMemory();
  }
  report(state, subject.dtype);
}

// ---- the physical floor -------------------------------------------------------------------------

void copy_by_library(benchmark::State& state) {
  const Bytes& from = tensor(Dtype::bf16);
  const Bytes to(from.size());
  for (auto _ : state) {
    std::memcpy(to.data(), from.data(), from.size());
    benchmark::ClobberMemory();
  }
  report(state, Dtype::bf16);
}

void copy_around_caches(benchmark::State& state) {
#ifdef __SSE2__
  const Bytes& from = tensor(Dtype::bf16);
  const Bytes to(from.size());
  for (auto _ : state) {
    for (size_t i = 0; i < from.size(); i += 64) {
      const auto* const source = reinterpret_cast<const __m128i*>(from.data() + i);
      auto* const target = reinterpret_cast<__m128i*>(to.data() + i);
      _mm_prefetch(from.data() + i + 2048, _MM_HINT_T0);
      for (int lane = 0; lane < 4; ++lane)
        _mm_stream_si128(target + lane, _mm_load_si128(source + lane));
    }
    _mm_sfence();
  }
  report(state, Dtype::bf16);
#else
  copy_by_library(state);
#endif
}

// ---- kernels ------------------------------------------------------------------------------------

void add(const Kernels& kernels, Subject subject) {
  subject.name += std::string(" ") + kDtypes[static_cast<size_t>(subject.dtype)];
  const std::string name = subject.name + "/" + kernels.isa;
  benchmark::RegisterBenchmark(
      name.c_str(), [=, &kernels](benchmark::State& state) { measure(state, kernels, subject); });
}

// A codec's two directions.
void add_both(const Kernels& kernels, Dtype dtype, const std::string& name, size_t bytes,
              const Run& quantise, const Run& dequantise) {
  add(kernels, {"quantise " + name, dtype, bytes, quantise, 0, nullptr});
  add(kernels,
      {"dequantise " + name, dtype, kValues * dtype_bytes(dtype), dequantise, bytes, quantise});
}

void add_groups(const Kernels& kernels, Dtype dtype, int bits) {
  const size_t codes = code_bytes(bits, kValues);
  const size_t bytes = codes + kValues / kGroup * kMetaBytes;
  const std::string name = "int" + std::to_string(bits);
  const Run quantise = [=](const Kernels& with, const uint8_t* /*in*/, uint8_t* out) {
    (void)with.group(bits, dtype).quantise(tensor(dtype).data(), kValues, out, out + codes, true);
  };
  add_both(kernels, dtype, name, bytes, quantise,
           [=](const Kernels& with, const uint8_t* in, uint8_t* out) {
             with.group(bits, dtype).dequantise(in, in + codes, kValues, out, true);
           });
}

// Pages of one head at a time, as the codecs walk them.
void add_pages(const Kernels& kernels, Dtype dtype, int bits) {
  const size_t code_size = kPage * static_cast<size_t>(bits) / 8 * kHeadDim;
  const size_t meta_size = kMetaBytes * kHeadDim;
  const size_t panels = kTokens / kPage * kHeads;
  const size_t row = kHeadDim * dtype_bytes(dtype);
  const auto token_bytes = static_cast<ptrdiff_t>(kHeads * row);
  const auto place = [=](size_t panel) {
    return panel / kHeads * kPage * kHeads * row + panel % kHeads * row;
  };
  const std::string name = "int" + std::to_string(bits) + "_kc";
  const Run quantise = [=](const Kernels& with, const uint8_t* /*in*/, uint8_t* out) {
    for (size_t panel = 0; panel < panels; ++panel)
      (void)with.page(bits, dtype)
          .quantise(tensor(dtype).data() + place(panel), token_bytes, kHeadDim,
                    out + panel * code_size, out + panels * code_size + panel * meta_size, true);
  };
  const size_t bytes = panels * (code_size + meta_size);
  add_both(kernels, dtype, name, bytes, quantise,
           [=](const Kernels& with, const uint8_t* in, uint8_t* out) {
             for (size_t panel = 0; panel < panels; ++panel)
               with.page(bits, dtype)
                   .dequantise(in + panel * code_size, in + panels * code_size + panel * meta_size,
                               token_bytes, kHeadDim, out + place(panel), true);
           });
}

// int4_rot, and with `levels` the codebooks of 4 or 3 bits. Heads are rotated a few at a time, as
// the codecs do.
constexpr size_t kAtOnce = 16;

void add_rotated(const Kernels& kernels, Dtype dtype, int levels) {
  const size_t rows = kTokens * kHeads;
  const size_t row_bytes = kHeadDim * dtype_bytes(dtype);
  const size_t code_size = levels != 0 ? level_bytes(levels, kHeadDim) : code_bytes(4, kHeadDim);
  const size_t meta_size = levels != 0 ? 4 : kHeadDim / kGroup * kMetaBytes;
  const auto signs = std::make_shared<std::vector<uint32_t>>(signs_of(7, kHeadDim));
  const std::string name = levels != 0 ? "tq" + std::to_string(levels) : "int4_rot";
  const Run quantise = [=](const Kernels& with, const uint8_t* /*in*/, uint8_t* out) {
    float rotated[kAtOnce * kHeadDim];
    const RotationKernels& rotation = with.rotation(dtype);
    for (size_t row = 0; row < rows; row += kAtOnce) {
      uint8_t* const codes = out + row * code_size;
      uint8_t* const meta = out + rows * code_size + row * meta_size;
      for (size_t i = 0; i < kAtOnce; ++i) {
        const uint8_t* const values = tensor(dtype).data() + (row + i) * row_bytes;
        (void)rotation.rotate(values, signs->data(), kHeadDim, rotated + i * kHeadDim);
        if (levels == 0) continue;
        const float squares = rotation.sum_of_squares(values, kHeadDim);
        store_bits(meta + i * meta_size, squares);
        with.level(levels).quantise(rotated + i * kHeadDim, 1.0f / squares, kHeadDim,
                                    codes + i * code_size);
      }
      if (levels == 0)
        (void)rotation.group.quantise(reinterpret_cast<const uint8_t*>(rotated), kAtOnce * kHeadDim,
                                      codes, meta, false);
    }
  };
  const Run dequantise = [=](const Kernels& with, const uint8_t* in, uint8_t* out) {
    float rotated[kAtOnce * kHeadDim];
    const RotationKernels& rotation = with.rotation(dtype);
    for (size_t row = 0; row < rows; row += kAtOnce) {
      const uint8_t* const codes = in + row * code_size;
      const uint8_t* const meta = in + rows * code_size + row * meta_size;
      if (levels == 0)
        rotation.group.dequantise(codes, meta, kAtOnce * kHeadDim,
                                  reinterpret_cast<uint8_t*>(rotated), false);
      for (size_t i = 0; i < kAtOnce; ++i) {
        if (levels != 0)
          with.level(levels).dequantise(codes + i * code_size,
                                        load_bits<float>(meta + i * meta_size), kHeadDim,
                                        rotated + i * kHeadDim);
        rotation.unrotate(rotated + i * kHeadDim, signs->data(), kHeadDim,
                          out + (row + i) * row_bytes);
      }
    }
  };
  add_both(kernels, dtype, name, rows * (code_size + meta_size), quantise, dequantise);
}

void add_exchange(const Kernels& kernels, Dtype dtype) {
  struct Format {
    const char* name;
    GroupKernels ExchangeKernels::* which;
    size_t row_bytes;
    size_t meta_bytes;
  };
  const size_t rows = kTokens * kHeads;
  const size_t row = kHeadDim * dtype_bytes(dtype);
  for (const Format& format :
       {Format{"fp8_e4m3", &ExchangeKernels::fp8, kHeadDim, 0},
        Format{"int8_per_token_head", &ExchangeKernels::head8, kHeadDim, 4},
        Format{"q8_0", &ExchangeKernels::q8, kHeadDim / kQ8Block * (kQ8Block + 2), 0}}) {
    const auto of = [=](const Kernels& with) -> const GroupKernels& {
      return with.exchange[static_cast<size_t>(dtype)].*format.which;
    };
    const size_t codes = rows * format.row_bytes;
    const Run quantise = [=](const Kernels& with, const uint8_t* /*in*/, uint8_t* out) {
      for (size_t i = 0; i < rows; ++i)
        (void)of(with).quantise(tensor(dtype).data() + i * row, kHeadDim,
                                out + i * format.row_bytes, out + codes + i * format.meta_bytes,
                                true);
    };
    const size_t bytes = codes + rows * format.meta_bytes;
    add_both(kernels, dtype, format.name, bytes, quantise,
             [=](const Kernels& with, const uint8_t* in, uint8_t* out) {
               for (size_t i = 0; i < rows; ++i)
                 of(with).dequantise(in + i * format.row_bytes, in + codes + i * format.meta_bytes,
                                     kHeadDim, out + i * row, true);
             });
  }
}

[[maybe_unused]] const bool registered = [] {
  benchmark::RegisterBenchmark("copy/library", copy_by_library);
  benchmark::RegisterBenchmark("copy/around caches", copy_around_caches);
  for (const Isa isa : supported_isas()) {
    const Kernels& kernels = kernels_for(isa_name(isa));
    for (const Dtype dtype : {Dtype::bf16, Dtype::fp16, Dtype::fp32}) {
      for (const int bits : {8, 4}) {
        add_groups(kernels, dtype, bits);
        add_pages(kernels, dtype, bits);
      }
      for (const int levels : {0, 4, 3}) add_rotated(kernels, dtype, levels);
      add_exchange(kernels, dtype);
    }
  }
  return true;
}();

}  // namespace
}  // namespace blatam
