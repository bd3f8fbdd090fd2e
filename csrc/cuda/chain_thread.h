// One sequence's chain, by one thread: the code that both forms of chains.h compile. Internal to
// the file that includes it.
#pragma once

#include "core/blake2b_rounds.h"
#include "cuda/chains.h"
#include "cuda/warp.h"

namespace blatam::cuda {
namespace {

constexpr uint32_t kDigestBytes = 32;
constexpr uint32_t kDigestWords = kDigestBytes / 8;
constexpr uint32_t kMessageWords = kBlake2bBlockBytes / 8;

BLATAM_LANES int64_t bound_at(const ChainJob& job, const void* bounds, uint64_t i) {
  return job.bound_type == Integer::int32 ? static_cast<const int32_t*>(bounds)[i]
                                          : static_cast<const int64_t*>(bounds)[i];
}

// The ids of a sequence as a range of all; false where it is none.
BLATAM_LANES bool range_of(const ChainJob& job, uint32_t sequence, uint64_t* begin,
                           uint64_t* length) {
  if (job.begins != nullptr) {
    const int64_t first = bound_at(job, job.begins, sequence);
    const int64_t end = bound_at(job, job.begins, uint64_t{sequence} + 1);
    if (first < 0 || end < first || static_cast<uint64_t>(end) > job.ids_count) return false;
    *begin = static_cast<uint64_t>(first);
    *length = static_cast<uint64_t>(end - first);
    return true;
  }
  *begin = sequence * job.row_stride;
  *length = job.row_ids;
  if (job.lengths == nullptr) return true;
  const int64_t said = bound_at(job, job.lengths, sequence);
  if (said < 0 || static_cast<uint64_t>(said) > job.row_ids) return false;
  *length = static_cast<uint64_t>(said);
  return true;
}

// The ids of one block, taken in pairs; remembers the first that is no token.
template <class Id>
struct BlockIds {
  const Id* ids;
  uint32_t count;
  uint64_t greatest;  // as Id's bits go: what is negative lies beyond
  uint64_t bad;       // an index, or at least `count`

  BLATAM_MEMBER uint64_t one(uint64_t i) {
    if (i >= count) return 0;
    const uint64_t id = ids[i];
    if (id > greatest && i < bad) bad = i;
    return id & 0xffffffffu;
  }
  // Ids i and i + 1 as a word of the message, which ends in zeros.
  BLATAM_MEMBER uint64_t word(uint64_t i) { return one(i) | one(i + 1) << 32; }
};

// Replaces `digest` by that of the block that follows it.
template <class Id>
BLATAM_LANES void chain_block(const ChainJob& job, BlockIds<Id>& block, uint64_t* digest) {
  const uint64_t bytes = kDigestBytes + 4 * uint64_t{block.count};
  uint64_t h[8];
  BLATAM_UNROLL
  for (uint32_t i = 0; i < 8; ++i) h[i] = job.state[i];
  BLATAM_ROLL
  for (uint64_t at = 0; at < bytes; at += kBlake2bBlockBytes) {
    uint64_t m[kMessageWords];
    BLATAM_UNROLL
    for (uint32_t i = 0; i < kMessageWords; ++i)
      m[i] = i < kDigestWords && at == 0 ? digest[i] : block.word((at + 8 * i - kDigestBytes) / 4);
    const uint64_t end = at + kBlake2bBlockBytes;
    Blake2bPortable::compress_words(h, m, job.counter + (end < bytes ? end : bytes),
                                    end < bytes ? 0 : ~uint64_t{0});
  }
  BLATAM_UNROLL
  for (uint32_t i = 0; i < kDigestWords; ++i) digest[i] = h[i];
}

// Digests in memory begin at multiples of eight.
BLATAM_LANES void take_digest(const uint8_t* from, uint64_t* digest) {
  BLATAM_UNROLL
  for (uint32_t i = 0; i < kDigestWords; ++i) {
#ifdef __CUDA_ARCH__
    digest[i] = reinterpret_cast<const uint64_t*>(from)[i];
#else
    digest[i] = load_le64(from + 8 * i);
#endif
  }
}
BLATAM_LANES void put_digest(const uint64_t* digest, uint8_t* to) {
#ifdef __CUDA_ARCH__
  BLATAM_UNROLL
  for (uint32_t i = 0; i < kDigestWords; ++i) reinterpret_cast<uint64_t*>(to)[i] = digest[i];
#else
  blake2b_digest(digest, to);
#endif
}

// Id: uint32_t or uint64_t, whose bits are the id's. A bad id ends the sequence: what was named
// before it cannot be told from what a good prompt has, so those digests become zeros.
template <class Id>
BLATAM_LANES void chain_sequence(const ChainJob& job, uint32_t sequence) {
  uint64_t begin;
  uint64_t length;
  if (!range_of(job, sequence, &begin, &length)) {
    job.counts[sequence] = kChainBounds;
    return;
  }
  const uint64_t blocks = length / job.block_tokens;
  if (blocks > job.room) {
    job.counts[sequence] = kChainRoom;
    return;
  }
  uint64_t digest[kDigestWords];
  if (job.parents != nullptr) {
    take_digest(job.parents + uint64_t{kDigestBytes} * sequence, digest);
  } else {
    BLATAM_UNROLL
    for (uint32_t i = 0; i < kDigestWords; ++i) digest[i] = job.parent[i];
  }
  uint8_t* const out = job.digests + sequence * job.room * kDigestBytes;
  const uint64_t greatest = job.id_type == Integer::int32 ? INT32_MAX : UINT32_MAX;
  for (uint64_t block = 0; block < blocks; ++block) {
    const uint64_t first = block * job.block_tokens;
    BlockIds<Id> ids = {static_cast<const Id*>(job.ids) + begin + first, job.block_tokens, greatest,
                        UINT64_MAX};
    chain_block(job, ids, digest);
    if (ids.bad != UINT64_MAX) {
      const uint64_t none[kDigestWords] = {};
      for (uint64_t i = 0; i < block; ++i) put_digest(none, out + i * kDigestBytes);
      job.counts[sequence] = -1 - static_cast<int64_t>(first + ids.bad);
      return;
    }
    put_digest(digest, out + block * kDigestBytes);
  }
  job.counts[sequence] = static_cast<int64_t>(blocks);
}

}  // namespace
}  // namespace blatam::cuda
