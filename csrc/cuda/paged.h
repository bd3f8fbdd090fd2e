// Keys and values between an engine's paged cache and payloads: one launch gathers tokens by their
// slots, quantises and packs them, or unpacks, dequantises and scatters them, for many layers and
// blocks at once. A payload is, bit for bit, what the CPU's scheme of the same name makes of the
// same tokens (docs/CODECS.md), escapes included. A C interface: plain structs, codes for errors;
// nothing throws, nothing is allocated, nothing waits.
//
// The same algorithms run in two places. `blatam_paged_*` runs them on the calling thread over
// memory of the host, lane by lane: what is tested without a GPU, against the codecs that serve
// caches of the host. `blatam_cuda_*`, in the library that nvcc compiles, queues them
// on a stream of a device; all pointers of the job are then the device's, must stay valid
// until the work is done, and the answer says only that it was queued. Calls are safe from any
// thread.
//
// The view of a cache. Value d of head h of the token in slot s lies at
//   base + s / block_tokens * block_bytes + s % block_tokens * token_bytes + h * head_bytes
//        + d / run * run_bytes + d % run * (bytes of a value)
// which covers every layout that engines use (docs/CUDA.md lists them); a run is head_dim but in
// paged attention's old layout, where it is a few channels.
#pragma once

#include <stdint.h>

namespace blatam::cuda {

// What a payload holds, by the scheme's name in docs/CODECS.md.
enum class Scheme : uint8_t {
  raw,
  token8,
  token4,
  channel8,
  channel4,
  rotated4,
  levels4,
  levels3,
  exp4,
};

// What a cache holds. A cache of fp8 counts as the bfloat16 numbers that it means: its payloads are
// bfloat16's. Fetching into one rounds to the nearest, finite values to at most the greatest that
// it has (448, as the codec fp8_e4m3 does, or 57344); e5m2 keeps infinities.
enum class Element : uint8_t { bf16, fp16, fp8_e4m3, fp8_e5m2 };

constexpr uint32_t kMostTensors = 128;  // of one launch: they travel with it, by value
constexpr uint32_t kPayloadAlign = 16;

// One tensor of the cache: the keys or the values of a layer.
struct Tensor {
  uint8_t* base;     // of slot 0, head 0, channel 0
  uint64_t payload;  // where its payload begins in a block's payloads; a multiple of 16
};

// A slot that is skipped: storing takes its token for zeros (in schemes by page: for a copy of the
// first token of the page that is not skipped, so that no range widens), fetching leaves it alone.
constexpr int64_t kSkippedSlot = -1;

// Bits of a fault. A payload with one must not be believed.
constexpr uint32_t kFaultSlot = 1;    // a slot is neither kSkippedSlot nor below slot_limit
constexpr uint32_t kFaultDamage = 2;  // fetching: what no encoder writes; contents unspecified
constexpr uint32_t kFaultRoom = 4;    // storing: escapes need more room; bytes[] says how much
constexpr uint32_t kEscapes = 128;    // between kernels only

struct Job {
  Scheme scheme;
  Element element;
  uint32_t tokens;  // of one payload
  uint32_t kv_heads;
  uint32_t head_dim;

  uint32_t block_tokens;
  uint32_t run;
  int64_t block_bytes;
  int64_t token_bytes;
  int64_t head_bytes;
  int64_t run_bytes;
  uint64_t slot_limit;  // at most 2^31

  uint64_t seed;  // of the rotation

  uint32_t blocks;        // of `tokens` tokens each
  uint32_t tensors;       // that each block has a payload of
  const int64_t* slots;   // [blocks][tokens]
  uint8_t* payloads;      // a multiple of 16
  uint64_t block_stride;  // from one block's payloads to the next's; a multiple of 16
  uint64_t payload_room;  // of each payload; at least fixed_bytes()
  uint64_t* bytes;        // [blocks][tensors], of each payload: written by store, read by fetch
  uint32_t* faults;       // [blocks][tensors], written by both; 0 is well
  // [blocks][tensors], how far from `payloads` each one begins, a multiple of 16; null: where
  // stride and offset say. For fetching only.
  const uint64_t* places;
  Tensor tensor[kMostTensors];
};

// Codes; from kCudaError on, CUDA's own beyond it.
enum Code : int {
  kOk = 0,
  kShape = 1,        // a dimension, or block_tokens or run, is 0
  kTooLarge = 2,     // beyond the limits of plan.h
  kMisaligned = 3,   // a pointer or an offset
  kRoom = 4,         // payload_room is too small
  kUnsupported = 5,  // this scheme, for this shape
  kOverlap = 6,      // payloads of a block overlap
  kElsewhere = 7,    // memory that is not the device's
  // Of bus.h and what it is made of.
  kNotYet = 20,       // it is still under way
  kFull = 21,         // the pool has no room now
  kTooSmall = 22,     // a size to open with
  kOutOfMemory = 23,  // of the host
  kOutside = 24,      // beyond the end of a piece
  kClosed = 25,
  kCudaError = 1000,
};

extern "C" {

// A sentence on a code that is not CUDA's.
const char* blatam_paged_text(int code);
// The bytes of a payload without escapes, which is also the least; the most it may need where its
// size depends on the values (exp4). 0 for what is unsupported.
uint64_t blatam_paged_fixed_bytes(const Job* job);
uint64_t blatam_paged_most_bytes(const Job* job);

int blatam_paged_store(const Job* job);
int blatam_paged_fetch(const Job* job);

// How a value is read and written: what each of the 256 bytes of an fp8 cache counts as, and the
// byte that each of the 65,536 bfloat16 becomes. For code that takes a cache apart by other means.
// false for an element that is not fp8.
bool blatam_paged_fp8(Element element, uint16_t* patterns, uint8_t* bytes);

// ---- in the library that needs nvcc -------------------------------------------------------------

// `stream`: a cudaStream_t of `device`; null is the device's default stream. Memory that is not the
// device's is refused before anything is queued, and the thread's current device stays what it was.
int blatam_cuda_store(const Job* job, int device, void* stream);
int blatam_cuda_fetch(const Job* job, int device, void* stream);
// A sentence on any code.
const char* blatam_cuda_text(int code);
// The architectures it was built for, as "80;90-real".
const char* blatam_cuda_architectures();
// The driver's and the runtime's versions as 1000 * major + 10 * minor; the driver's is 0 where
// there is none.
int blatam_cuda_versions(int* driver, int* runtime);
int blatam_cuda_device_count(int* count);
}  // extern "C"

}  // namespace blatam::cuda
