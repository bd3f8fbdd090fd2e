#include "cuda/plan.h"

#include <string.h>

#include <initializer_list>

#include "kernels/packing.h"

namespace blatam::cuda {
namespace {

constexpr uint32_t kGroupsInWarp = 4;
constexpr uint32_t kChunksInWarp = 32;
constexpr uint32_t kLaneValues = 8;

uint64_t ceil_div(uint64_t a, uint64_t b) { return (a + b - 1) / b; }

uint64_t element_bytes(Element element) {
  return element == Element::fp8_e4m3 || element == Element::fp8_e5m2 ? 1 : 2;
}

// Chunks of eight channels in the heads of `tokens` tokens, 32 to a warp.
uint32_t raw_items(const Job& job, uint64_t tokens) {
  const uint64_t chunks = tokens * job.kv_heads * ceil_div(job.head_dim, kLaneValues);
  return static_cast<uint32_t>(ceil_div(chunks, kChunksInWarp));
}

// Rows of groups, with codes of `bits`.
void lay_rows(Plan* plan, int bits) {
  const Job& job = plan->job;
  plan->whole_tokens = job.head_dim < kGroup;
  plan->rows = plan->whole_tokens ? job.tokens : job.tokens * job.kv_heads;
  plan->row_values = plan->whole_tokens ? job.kv_heads * job.head_dim : job.head_dim;
  plan->row_groups = static_cast<uint32_t>(ceil_div(plan->row_values, kGroup));
  plan->row_code_bytes = static_cast<uint32_t>(code_bytes(bits, plan->row_values));
  plan->row_meta_bytes = plan->row_groups * static_cast<uint32_t>(kMetaBytes);
}

void lay_planes(Plan* plan) {
  const uint64_t codes_end = uint64_t{plan->rows} * plan->row_code_bytes;
  plan->codes_end = static_cast<uint32_t>(codes_end);
  plan->meta_begin = plane_end(codes_end);
  plan->fixed_bytes = plan->meta_begin + uint64_t{plan->rows} * plan->row_meta_bytes;
  plan->meta_end = static_cast<uint32_t>(plan->fixed_bytes);
  plan->tail_begin = plan->fixed_bytes;
}

// Rows are heads, whatever their size, with a norm each.
void lay_heads(Plan* plan, int bits) {
  const Job& job = plan->job;
  plan->rows = job.tokens * job.kv_heads;
  plan->row_values = job.head_dim;
  plan->row_groups = static_cast<uint32_t>(ceil_div(job.head_dim, kGroup));
  plan->row_code_bytes = static_cast<uint32_t>(level_bytes(bits, job.head_dim));
  plan->row_meta_bytes = 2;
}

// Panels, pages of a head, 32 channels to a warp; then the tokens that fill no page.
void lay_pages(Plan* plan, int bits) {
  const Job& job = plan->job;
  plan->pages = job.tokens / static_cast<uint32_t>(kPage);
  plan->rows = plan->pages * job.kv_heads;
  plan->row_code_bytes =
      static_cast<uint32_t>(kPage) / 8 * static_cast<uint32_t>(bits) * job.head_dim;
  plan->row_meta_bytes = static_cast<uint32_t>(kMetaBytes) * job.head_dim;
  lay_planes(plan);
  const uint32_t tail = job.tokens % static_cast<uint32_t>(kPage);
  plan->tail_begin = plane_end(plan->fixed_bytes);
  plan->fixed_bytes = plan->tail_begin + 2 * uint64_t{tail} * job.kv_heads * job.head_dim;
  plan->items = plan->rows * static_cast<uint32_t>(ceil_div(job.head_dim, kChunksInWarp));
  plan->tail_items = raw_items(job, tail);
}

// Chunks of 1,024 values in the order of the tensor, the rows here. At most what codes save of them
// comes back as escapes.
void lay_chunks(Plan* plan, uint64_t values) {
  const uint64_t whole = plan->job.element == Element::fp16 ? 56 : 32;  // bytes of 64 codes
  const uint64_t left = values % 64;
  const uint64_t codes = values / 64 * whole + (left < whole ? left : whole);
  plan->rows = static_cast<uint32_t>(ceil_div(values, 1024));
  plan->row_values = static_cast<uint32_t>(values);  // of all
  plan->fixed_bytes = 1 + 3 * uint64_t{plan->rows} + codes + values;
  plan->most_bytes = plan->fixed_bytes + values - codes;
  plan->items = plan->rows;
}

int lay(Plan* plan) {
  const Job& job = plan->job;
  const uint64_t values = uint64_t{job.tokens} * job.kv_heads * job.head_dim;
  switch (job.scheme) {
    case Scheme::raw:
      plan->fixed_bytes = 2 * values;
      plan->items = raw_items(job, job.tokens);
      return kOk;
    case Scheme::token8:
    case Scheme::token4:
      lay_rows(plan, job.scheme == Scheme::token8 ? 8 : 4);
      lay_planes(plan);
      plan->items =
          static_cast<uint32_t>(ceil_div(uint64_t{plan->rows} * plan->row_groups, kGroupsInWarp));
      return kOk;
    case Scheme::channel8:
    case Scheme::channel4:
      lay_pages(plan, job.scheme == Scheme::channel8 ? 8 : 4);
      return kOk;
    case Scheme::rotated4:
      lay_rows(plan, 4);
      if (plan->row_values > kMostRotated || job.head_dim >= kMostRotated) return kUnsupported;
      lay_planes(plan);
      plan->items = plan->rows;
      return kOk;
    case Scheme::levels4:
    case Scheme::levels3:
      lay_heads(plan, job.scheme == Scheme::levels4 ? 4 : 3);
      if (plan->row_values > kMostRotated || job.head_dim >= kMostRotated) return kUnsupported;
      lay_planes(plan);
      plan->items = plan->rows;
      return kOk;
    case Scheme::exp4:
      lay_chunks(plan, values);
      return kOk;
  }
  return kUnsupported;
}

int check(const Job& job) {
  if (job.kv_heads == 0 || job.head_dim == 0 || job.block_tokens == 0 || job.run == 0)
    return kShape;
  // Twice for the bytes of a raw payload; the factors are below 2^32, so nothing overflows twice.
  const uint64_t row = uint64_t{job.kv_heads} * job.head_dim;
  if (row > kMostOfPayload || (job.tokens != 0 && row > kMostOfPayload / 4 / job.tokens) ||
      job.slot_limit > uint64_t{1} << 31 || job.tensors > kMostTensors)
    return kTooLarge;
  const auto align = element_bytes(job.element);
  if (reinterpret_cast<uintptr_t>(job.payloads) % kPayloadAlign != 0 ||
      job.block_stride % kPayloadAlign != 0 || reinterpret_cast<uintptr_t>(job.slots) % 8 != 0 ||
      reinterpret_cast<uintptr_t>(job.bytes) % 8 != 0 ||
      reinterpret_cast<uintptr_t>(job.places) % 8 != 0 ||
      reinterpret_cast<uintptr_t>(job.faults) % 4 != 0)
    return kMisaligned;
  for (const int64_t stride : {job.block_bytes, job.token_bytes, job.head_bytes, job.run_bytes})
    if (stride % static_cast<int64_t>(align) != 0) return kMisaligned;
  for (uint32_t t = 0; t < job.tensors; ++t)
    if (reinterpret_cast<uintptr_t>(job.tensor[t].base) % align != 0 ||
        job.tensor[t].payload % kPayloadAlign != 0)
      return kMisaligned;
  return kOk;
}

// Payloads of one block that overlap would be written by two threads at once. One that ends beyond
// 2^64 would begin before `payloads`.
bool overlap(const Job& job) {
  for (uint32_t a = 0; a < job.tensors; ++a) {
    if (job.tensor[a].payload > UINT64_MAX - job.payload_room) return true;
    if (job.blocks > 1 && job.tensor[a].payload + job.payload_room > job.block_stride) return true;
    for (uint32_t b = 0; b < a; ++b) {
      const uint64_t low = job.tensor[a].payload < job.tensor[b].payload ? a : b;
      const uint64_t high = low == a ? b : a;
      if (job.tensor[low].payload + job.payload_room > job.tensor[high].payload) return true;
    }
  }
  return false;
}

bool vectors(const Job& job) {
  const auto width = static_cast<int64_t>(kLaneValues * element_bytes(job.element));
  if (job.head_dim % kLaneValues != 0 || job.run % kLaneValues != 0) return false;
  for (const int64_t stride : {job.block_bytes, job.token_bytes, job.head_bytes, job.run_bytes})
    if (stride % width != 0) return false;
  for (uint32_t t = 0; t < job.tensors; ++t)
    if (reinterpret_cast<uintptr_t>(job.tensor[t].base) % static_cast<uintptr_t>(width) != 0)
      return false;
  return true;
}

}  // namespace

int make_plan(const Job& job, Plan* plan) {
  memset(plan, 0, sizeof *plan);
  plan->job = job;
  plan->book4 = kLloydMax4;
  plan->book3 = kLloydMax3;
  if (const int code = check(job); code != kOk) return code;
  if (const int code = lay(plan); code != kOk) return code;
  if (plan->most_bytes == 0) plan->most_bytes = plan->fixed_bytes;
  if (job.payload_room < plan->fixed_bytes) return kRoom;
  if (job.places == nullptr && overlap(job)) return kOverlap;
  const uint64_t warps = uint64_t{plan->items} + plan->tail_items;
  const uint64_t grid = ceil_div(warps, kWarpsInBlock);
  if (uint64_t{job.blocks} * job.tensors > kMostOfPayload ||
      (grid != 0 && uint64_t{job.blocks} * job.tensors > kMostOfPayload / grid))
    return kTooLarge;
  plan->vector = vectors(job);
  return kOk;
}

namespace {

// A plan for sizes alone: what is asked says nothing of memory.
bool sizes(const Job& asked, Plan* plan) {
  Job job = asked;
  job.blocks = 0;
  job.tensors = 0;
  job.payloads = nullptr;
  job.slots = nullptr;
  job.bytes = nullptr;
  job.faults = nullptr;
  job.block_stride = 0;
  job.payload_room = UINT64_MAX;
  return make_plan(job, plan) == kOk;
}

}  // namespace

extern "C" {

const char* blatam_paged_text(int code) {
  switch (code) {
    case kOk:
      return "nothing is wrong";
    case kShape:
      return "kv_heads, head_dim, block_tokens and run must be at least 1";
    case kTooLarge:
      return "too large for one launch: a payload may have 2^29 values, a cache 2^31 slots, a "
             "launch 128 tensors and 2^31 thread blocks; cut it into several";
    case kMisaligned:
      return "misaligned: payloads must begin at multiples of 16 bytes, the cache at multiples of "
             "its values' size";
    case kRoom:
      return "the room for a payload is smaller than the payload";
    case kUnsupported:
      return "this codec has no kernel for this shape";
    case kOverlap:
      return "payloads of a block overlap one another or the next block's";
    case kElsewhere:
      return "memory that does not belong to the device; move the tensor, or pass its device";
    case kNotYet:
      return "it is still under way";
    case kFull:
      return "the pool has no room for it now";
    case kTooSmall:
      return "the pool needs at least 256 bytes, the staging two buffers of at least 4096";
    case kOutOfMemory:
      return "the host has no memory left";
    case kClosed:
      return "the bus is closed";
    case kOutside:
      return "it reaches beyond the end of its piece of the pool";
    default:
      return "an unknown code";
  }
}

uint64_t blatam_paged_fixed_bytes(const Job* job) {
  Plan plan;
  return sizes(*job, &plan) ? plan.fixed_bytes : 0;
}

uint64_t blatam_paged_most_bytes(const Job* job) {
  Plan plan;
  return sizes(*job, &plan) ? plan.most_bytes : 0;
}

}  // extern "C"

}  // namespace blatam::cuda
