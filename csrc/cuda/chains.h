// Names of token blocks where the tokens are: chained keyed BLAKE2b-256 digests of many sequences
// in one launch, bit for bit what chain_blocks() of core/digest.h gives each of them. A C interface
// like paged.h's, in the same two forms: `blatam_chains_run` works on the calling thread over
// memory of the host, `blatam_cuda_chains_run` queues the work on a stream of a device and returns;
// all pointers of the job are then the device's and stay valid until the work is done. Nothing
// throws, nothing is allocated, nothing waits. Calls are safe from any thread.
//
// A chain is one compression after another, and within one twelve operations wait for each other
// whatever the width (core/blake2b_rounds.h): four lanes for a sequence would finish no sooner than
// one, and issue shuffles besides. So a thread takes a sequence, and what a device gains is the
// number of sequences, and that ids which are there already need not be copied to the host.
#pragma once

#include <stdint.h>

#include "cuda/paged.h"

namespace blatam::cuda {

enum class Integer : uint8_t { int32, uint32, int64, uint64 };

struct ChainJob {
  uint64_t state[8];  // where every message under the key begins, and the bytes hashed until there:
  uint64_t counter;   // DigestKey's

  Integer id_type;
  Integer bound_type;  // of begins and lengths: int32 or int64
  const void* ids;
  uint64_t ids_count;  // nothing beyond is read

  // Where a sequence lies. Packed: the ids from begins[i] to begins[i + 1], of [sequences + 1].
  // In rows, where begins is null: row_stride * i and the row_ids that follow, or the first
  // lengths[i] of them where lengths is not null.
  const void* begins;
  const void* lengths;
  uint64_t row_ids;
  uint64_t row_stride;
  uint32_t sequences;

  uint32_t block_tokens;   // ids after a sequence's last whole block are not looked at
  const uint8_t* parents;  // [sequences][32]; null: `parent` for all
  uint64_t parent[4];      // little-endian words
  uint8_t* digests;  // [sequences][room][32]; those a sequence has no block for stay as they are
  uint64_t room;
  int64_t* counts;  // [sequences]: see below
};

// What counts[i] says: how many digests sequence i has; or, with none of them to be believed, one
// of these two; or -1 - k, where id k of the sequence is the first outside 0 ... 2^32 - 1.
constexpr int64_t kChainBounds = INT64_MIN;    // it begins or ends where there are no ids
constexpr int64_t kChainRoom = INT64_MIN + 1;  // it has more blocks than `room`

extern "C" {

// Both answer a Code: kShape for block_tokens of 0 or a type that bounds may not have, kTooLarge
// for rows beyond the ids or digests beyond 2^64 bytes, kMisaligned for a pointer (ids and bounds:
// their size; all else: 8), kElsewhere, or CUDA's.
int blatam_chains_run(const ChainJob* job);
int blatam_cuda_chains_run(const ChainJob* job, int device, void* stream);
// A sentence on one that is not CUDA's.
const char* blatam_chains_text(int code);

// For both: whether the job can be run.
int blatam_chains_check(const ChainJob* job);
}  // extern "C"

}  // namespace blatam::cuda
