// What the device's algorithms make of a paged cache is what the CPU's codecs make of the same
// tokens, bit for bit, in every layout, and fetching puts the decoded values where they belong and
// nowhere else. The code that runs here is the code that nvcc compiles, a lane at a time.
#include "cuda/paged.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "core/crc32c.h"
#include "kernels/arithmetic.h"
#include "kernels/codec.h"
#include "kernels/exchange.h"

namespace blatam {
namespace {

using Bytes = std::vector<uint8_t>;
using cuda::Element;
using cuda::Job;

constexpr Checksum kChecksum = {crc32c, crc32c_combine};
constexpr uint64_t kSeed = 7;
constexpr uint8_t kGuard = 0xa5;

struct SchemeCase {
  cuda::Scheme scheme;
  const char* codec;
  Kind kind;
};
constexpr SchemeCase kSchemes[] = {
    {cuda::Scheme::raw, "raw", Kind::value},
    {cuda::Scheme::token8, "int8", Kind::value},
    {cuda::Scheme::token4, "int4", Kind::value},
    {cuda::Scheme::channel8, "int8_kc", Kind::key},
    {cuda::Scheme::channel4, "int4_kc", Kind::key},
    {cuda::Scheme::rotated4, "int4_rot", Kind::value},
    {cuda::Scheme::levels4, "tq4", Kind::value},
    {cuda::Scheme::levels3, "tq3", Kind::value},
    {cuda::Scheme::exp4, "exp4", Kind::value},
};

// The layouts of docs/CUDA.md, as what they make of the strides. In the order of their dimensions:
// NB blocks, BS tokens of a block, NH heads, HS channels, 2 keys and values, NL layers.
enum class Layout { nhd, hnd, cross_layer, fused_tail, split_keys, split_values };
constexpr Layout kLayouts[] = {Layout::nhd,        Layout::hnd,        Layout::cross_layer,
                               Layout::fused_tail, Layout::split_keys, Layout::split_values};

struct Case {
  Element element = Element::bf16;
  Layout layout = Layout::nhd;
  uint32_t tokens = 0;  // of a payload
  uint32_t kv_heads = 0;
  uint32_t head_dim = 0;
  uint32_t block_tokens = 16;
  uint32_t blocks = 2;   // payload blocks
  uint32_t tensors = 3;  // layers times keys and values
  bool skip = false;
};

int64_t size_of(Element element) {
  return element == Element::bf16 || element == Element::fp16 ? 2 : 1;
}

// An engine's cache of several tensors in one piece of memory, between guards.
class Cache {
 public:
  Cache(const Case& c, std::mt19937_64& random) : case_(c) {
    const int64_t size = size_of(c.element);
    const int64_t tokens = c.block_tokens;
    const int64_t heads = c.kv_heads;
    const int64_t row = c.head_dim * size;
    slots_ = (c.blocks * c.tokens + 40) / c.block_tokens * c.block_tokens + c.block_tokens;
    const auto cache_blocks = static_cast<int64_t>(slots_) / tokens;
    job.run = c.head_dim;
    job.run_bytes = row;
    int64_t tensor_bytes = 0;
    switch (c.layout) {
      case Layout::nhd:  // [NB, BS, NH, HS]
        job.head_bytes = row, job.token_bytes = heads * row;
        job.block_bytes = tokens * job.token_bytes;
        tensor_bytes = cache_blocks * job.block_bytes;
        break;
      case Layout::hnd:  // [NB, NH, BS, HS]
        job.token_bytes = row, job.head_bytes = tokens * row;
        job.block_bytes = heads * job.head_bytes;
        tensor_bytes = cache_blocks * job.block_bytes;
        break;
      case Layout::cross_layer:  // [NB, NL * 2, BS, NH, HS]
        job.head_bytes = row, job.token_bytes = heads * row;
        tensor_bytes = tokens * job.token_bytes;
        job.block_bytes = c.tensors * tensor_bytes;
        break;
      case Layout::fused_tail:  // [NB, NH, BS, NL * 2, HS]
        tensor_bytes = row;
        job.token_bytes = c.tensors * row, job.head_bytes = tokens * job.token_bytes;
        job.block_bytes = heads * job.head_bytes;
        break;
      case Layout::split_keys:    // [NB, NH, HS / x, BS, x]
      case Layout::split_values:  // [NB, NH, HS, BS]
        job.run = c.layout == Layout::split_values
                      ? 1u
                      : std::gcd(static_cast<uint32_t>(16 / size), c.head_dim);
        job.token_bytes = job.run * size, job.run_bytes = tokens * job.token_bytes;
        job.head_bytes = c.head_dim / job.run * job.run_bytes;
        job.block_bytes = heads * job.head_bytes;
        tensor_bytes = cache_blocks * job.block_bytes;
        break;
    }
    const auto all = static_cast<size_t>(cache_blocks * tokens * heads * row) * c.tensors;
    memory.resize(kEdge + all + kEdge, kGuard);
    uint8_t* const first = memory.data() + kEdge;
    for (uint32_t t = 0; t < c.tensors; ++t)
      job.tensor[t].base = first + static_cast<int64_t>(t) * tensor_bytes;
    for (size_t i = 0; i < all; ++i) first[i] = static_cast<uint8_t>(random());
    slots.resize(size_t{c.blocks} * c.tokens);
    std::vector<int64_t> free(slots_);
    std::iota(free.begin(), free.end(), 0);
    std::shuffle(free.begin(), free.end(), random);
    std::copy_n(free.begin(), slots.size(), slots.begin());
    if (c.skip)
      for (int64_t& slot : slots)
        if (random() % 5 == 0) slot = cuda::kSkippedSlot;
    job.slot_limit = slots_;
  }

  // Numbers of ordinary size in place of any bits.
  void tame() {
    for (size_t i = kEdge; i + kEdge < memory.size(); i += 2) {
      uint16_t bits = load_bits<uint16_t>(memory.data() + i);
      if (case_.element == Element::bf16) bits = (bits & 0x81ffu) | 0x3e00u;
      if (case_.element == Element::fp16) bits = (bits & 0x8fffu) | 0x3000u;
      if (size_of(case_.element) == 1) bits &= 0xbfbfu;
      store_bits(memory.data() + i, bits);
    }
  }

  // Written out again, so that a mistake in the device's address is not repeated here.
  uint8_t* cell(Bytes& in, uint32_t tensor, int64_t slot, uint32_t head, uint32_t dim) const {
    const int64_t size = size_of(case_.element);
    const int64_t bs = case_.block_tokens;
    const int64_t nh = case_.kv_heads;
    const int64_t hs = case_.head_dim;
    const int64_t nt = case_.tensors;
    const int64_t nb = static_cast<int64_t>(slots_) / bs;
    const int64_t b = slot / bs;
    const int64_t s = slot % bs;
    const int64_t t = tensor;
    const int64_t h = head;
    const int64_t d = dim;
    const int64_t x = job.run;
    int64_t index = 0;
    switch (case_.layout) {
      case Layout::nhd:
        index = (((t * nb + b) * bs + s) * nh + h) * hs + d;
        break;
      case Layout::hnd:
        index = (((t * nb + b) * nh + h) * bs + s) * hs + d;
        break;
      case Layout::cross_layer:
        index = (((b * nt + t) * bs + s) * nh + h) * hs + d;
        break;
      case Layout::fused_tail:
        index = (((b * nh + h) * bs + s) * nt + t) * hs + d;
        break;
      case Layout::split_keys:
      case Layout::split_values:
        index = ((((t * nb + b) * nh + h) * (hs / x) + d / x) * bs + s) * x + d % x;
        break;
    }
    return in.data() + kEdge + index * size;
  }

  static constexpr size_t kEdge = 64;

  Job job = {};
  Bytes memory;
  std::vector<int64_t> slots;

 private:
  Case case_;
  uint64_t slots_ = 0;
};

uint16_t pattern_of(Element element, const uint8_t* cell) {
  if (size_of(element) == 2) return load_bits<uint16_t>(cell);
  if (element == Element::fp8_e5m2) {  // the upper half of an fp16
    const auto half = static_cast<uint16_t>(*cell << 8);
    if ((half & 0x7fff) <= 0x7c00) return Bf16::narrow(Fp16::widen(half));
    return static_cast<uint16_t>((*cell & 0x80) << 8 | 0x7f80 | (*cell & 3) << 5);
  }
  if ((*cell & 0x7f) == kFp8Nan) return static_cast<uint16_t>((*cell & 0x80) << 8 | 0x7fc0);
  return Bf16::narrow(value_of_fp8(*cell));
}
void put_pattern(Element element, uint8_t* cell, uint16_t pattern) {
  if (size_of(element) == 2) return store_bits(cell, pattern);
  const bool nan = (pattern & 0x7fff) > 0x7f80;
  if (element == Element::fp8_e5m2) {
    const auto sign = static_cast<uint8_t>(pattern >> 8 & 0x80);
    *cell = e5m2_of(Bf16::widen(nan ? 0 : pattern));
    if ((pattern & 0x7fff) == 0x7f80) *cell = sign | 0x7c;
    if (nan)
      *cell = static_cast<uint8_t>(sign | 0x7c | ((pattern & 0x60) == 0 ? 2 : pattern >> 5 & 3));
    return;
  }
  *cell =
      nan ? static_cast<uint8_t>((pattern >> 8 & 0x80) | kFp8Nan) : fp8_of(Bf16::widen(pattern));
}

bool by_page(cuda::Scheme scheme) {
  return scheme == cuda::Scheme::channel8 || scheme == cuda::Scheme::channel4;
}

// The tokens of one payload, gathered: what the CPU's codec is given.
std::vector<uint16_t> gathered(Cache& cache, const Case& c, cuda::Scheme scheme, uint32_t block,
                               uint32_t tensor) {
  std::vector<uint16_t> values(size_t{c.tokens} * c.kv_heads * c.head_dim);
  const int64_t* const slots = cache.slots.data() + size_t{block} * c.tokens;
  size_t i = 0;
  for (uint32_t token = 0; token < c.tokens; ++token) {
    int64_t slot = slots[token];
    if (slot < 0 && by_page(scheme) && token < c.tokens / 64 * 64) {
      const uint32_t page = token / 64 * 64;  // a copy of the page's first that is there
      for (uint32_t other = page + 64; other-- > page;)
        if (slots[other] >= 0) slot = slots[other];
    }
    for (uint32_t head = 0; head < c.kv_heads; ++head)
      for (uint32_t dim = 0; dim < c.head_dim; ++dim, ++i)
        if (slot >= 0)
          values[i] = pattern_of(c.element, cache.cell(cache.memory, tensor, slot, head, dim));
  }
  return values;
}

struct Outputs {
  Bytes memory;
  uint8_t* payloads = nullptr;
  std::vector<uint64_t> bytes;
  std::vector<uint32_t> faults;
};

// Room for every payload with all its values escaped, between guards.
Outputs outputs_for(Job* job, const Case& c) {
  Outputs out;
  job->tokens = c.tokens;
  job->kv_heads = c.kv_heads;
  job->head_dim = c.head_dim;
  job->element = c.element;
  job->block_tokens = c.block_tokens;
  job->blocks = c.blocks;
  job->tensors = c.tensors;
  job->seed = kSeed;
  const uint64_t most = cuda::blatam_paged_most_bytes(job);
  job->payload_room =
      (most + 16 * uint64_t{c.tokens} * c.kv_heads * (c.head_dim + 8) + 64) / 16 * 16;
  job->block_stride = job->payload_room * c.tensors + 48;
  for (uint32_t t = 0; t < c.tensors; ++t)  // in another order than the tensors'
    job->tensor[t].payload = job->payload_room * (c.tensors - 1 - t);
  out.memory.resize(job->block_stride * c.blocks + 32, kGuard);
  out.payloads = out.memory.data() + 16;
  out.payloads -= reinterpret_cast<uintptr_t>(out.payloads) % 16;
  out.bytes.resize(size_t{c.blocks} * c.tensors, 99);
  out.faults.resize(size_t{c.blocks} * c.tensors, 99);
  job->payloads = out.payloads;
  job->bytes = out.bytes.data();
  job->faults = out.faults.data();
  return out;
}

uint8_t* payload(const Job& job, uint32_t block, uint32_t tensor) {
  return job.payloads + block * job.block_stride + job.tensor[tensor].payload;
}

View<uint8_t> view_of(std::vector<uint16_t>& values, const Case& c) {
  const auto row = static_cast<int64_t>(2 * c.head_dim);
  return {reinterpret_cast<uint8_t*>(values.data()),
          {c.tokens, c.kv_heads, c.head_dim},
          c.element == Element::fp16 ? Dtype::fp16 : Dtype::bf16,
          row * c.kv_heads,
          row};
}

Bytes expected_payload(const SchemeCase& s, const Case& c, std::vector<uint16_t>& values) {
  Header header;
  header.codec = find_codec(s.codec);
  header.kind = s.kind;
  header.checksum = false;
  const View<uint8_t> view = view_of(values, c);
  const Source source = {view.data, view.shape, view.dtype, view.token_bytes, view.head_bytes};
  Bytes blob;
  for (;;) {
    const uint64_t bytes =
        encode_blob({kKernelsBaseline, 1, kSeed, nullptr}, header, source, kChecksum, blob);
    const bool fits = bytes <= blob.size();
    blob.resize(bytes);
    if (fits) return {blob.begin() + kHeaderBytes, blob.end()};
  }
}

std::vector<uint16_t> decoded(const SchemeCase& s, const Case& c, std::span<const uint8_t> bytes) {
  std::vector<uint16_t> values(size_t{c.tokens} * c.kv_heads * c.head_dim);
  const Codec* const codec = find_codec(s.codec);
  EXPECT_EQ(codec->scheme(s.kind).decode({kKernelsBaseline, 1, kSeed, nullptr}, bytes,
                                         view_of(values, c)),
            nullptr);
  return values;
}

void check(const SchemeCase& s, const Case& c, bool any_bits, std::mt19937_64& random) {
  SCOPED_TRACE(std::string(s.codec) + (s.kind == Kind::key ? " key" : " value") + " element " +
               std::to_string(static_cast<int>(c.element)) + " layout " +
               std::to_string(static_cast<int>(c.layout)) + " tokens " + std::to_string(c.tokens) +
               " heads " + std::to_string(c.kv_heads) + " dim " + std::to_string(c.head_dim));
  Cache cache(c, random);
  if (!any_bits) cache.tame();
  Job& job = cache.job;
  job.scheme = s.scheme;
  Outputs out = outputs_for(&job, c);
  job.slots = cache.slots.data();
  const Bytes before = cache.memory;
  ASSERT_EQ(cuda::blatam_paged_store(&job), cuda::kOk);
  ASSERT_EQ(cache.memory, before);
  Bytes touched(out.memory.size(), kGuard);  // what may differ from the guard, and how
  Bytes after = cache.memory;
  for (uint32_t block = 0; block < c.blocks; ++block) {
    for (uint32_t tensor = 0; tensor < c.tensors; ++tensor) {
      std::vector<uint16_t> values = gathered(cache, c, s.scheme, block, tensor);
      const Bytes expected = expected_payload(s, c, values);
      const uint32_t at = block * c.tensors + tensor;
      ASSERT_EQ(out.faults[at], 0u);
      ASSERT_EQ(out.bytes[at], expected.size());
      const uint8_t* const found = payload(job, block, tensor);
      const auto same = std::mismatch(expected.begin(), expected.end(), found);
      ASSERT_EQ(same.first - expected.begin(), static_cast<ptrdiff_t>(expected.size()));
      std::copy(expected.begin(), expected.end(), touched.begin() + (found - out.memory.data()));
      const std::vector<uint16_t> back = decoded(s, c, expected);
      size_t i = 0;
      for (uint32_t token = 0; token < c.tokens; ++token) {
        const int64_t slot = cache.slots[size_t{block} * c.tokens + token];
        for (uint32_t head = 0; head < c.kv_heads; ++head)
          for (uint32_t dim = 0; dim < c.head_dim; ++dim, ++i)
            if (slot >= 0)
              put_pattern(c.element, cache.cell(after, tensor, slot, head, dim), back[i]);
      }
    }
  }
  // exp4 leaves nothing of its room untouched that matters; the others write only what they are.
  if (s.scheme != cuda::Scheme::exp4) {
    ASSERT_EQ(out.memory, touched);
  }
  ASSERT_EQ(cuda::blatam_paged_fetch(&job), cuda::kOk);
  ASSERT_TRUE(std::ranges::all_of(out.faults, [](uint32_t fault) { return fault == 0; }));
  const auto same = std::ranges::mismatch(cache.memory, after);
  ASSERT_EQ(same.in1 - cache.memory.begin(), static_cast<ptrdiff_t>(after.size()));
}

constexpr Element kElements[] = {Element::bf16, Element::fp16, Element::fp8_e4m3,
                                 Element::fp8_e5m2};
constexpr uint32_t kHeadDims[] = {64, 80, 96, 112, 120, 128, 192, 256, 512, 576, 1, 7, 32, 40, 100};

TEST(Paged, EveryHeadSizeGivesTheCodecsBits) {
  std::mt19937_64 random(1);
  for (const SchemeCase& s : kSchemes)
    for (const uint32_t head_dim : kHeadDims)
      for (const Element element : kElements)
        for (const bool any_bits : {false, true}) {
          Case c = {element, Layout::nhd, 3, 2, head_dim};
          if (by_page(s.scheme)) c.tokens = 66, c.kv_heads = 1, c.blocks = 1;
          check(s, c, any_bits, random);
        }
}

TEST(Paged, EveryLayoutAndBlockSizeGivesTheCodecsBits) {
  std::mt19937_64 random(2);
  for (const SchemeCase& s : kSchemes)
    for (const Layout layout : kLayouts)
      for (const uint32_t block_tokens : {16u, 1u, 24u, 64u})
        for (const Element element : {Element::bf16, Element::fp8_e5m2})
          for (const uint32_t head_dim : {64u, 72u}) {
            Case c = {element, layout, 64, 2, head_dim, block_tokens, 2, 2, false};
            check(s, c, block_tokens != 16, random);
          }
}

TEST(Paged, SkippedTokensAreZerosAndStayWhatTheyWere) {
  std::mt19937_64 random(3);
  for (const SchemeCase& s : kSchemes)
    for (const uint32_t tokens : {1u, 5u, 64u, 70u}) {
      Case c = {Element::bf16, Layout::hnd, tokens, 3, 40, 16, 3, 1, true};
      check(s, c, false, random);
      c.head_dim = 128;
      check(s, c, true, random);
    }
}

TEST(Paged, AnyShapeGivesTheCodecsBits) {
  std::mt19937_64 random(4);
  for (int round = 0; round < 300; ++round) {
    const SchemeCase& s = kSchemes[random() % std::size(kSchemes)];
    Case c;
    c.element = static_cast<Element>(random() % 4);
    c.layout = kLayouts[random() % std::size(kLayouts)];
    c.head_dim = 1 + static_cast<uint32_t>(random() % 140);
    c.kv_heads = 1 + static_cast<uint32_t>(random() % 3);
    c.tokens = static_cast<uint32_t>(random() % 140);
    c.block_tokens = 1 + static_cast<uint32_t>(random() % 70);
    c.blocks = static_cast<uint32_t>(random() % 3);
    c.tensors = 1 + static_cast<uint32_t>(random() % 3);
    c.skip = random() % 2 == 0;
    check(s, c, random() % 2 == 0, random);
  }
}

}  // namespace
}  // namespace blatam
