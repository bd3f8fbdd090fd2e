// Chains on the host: the checks of both forms, and one sequence after the other.
#include "cuda/chains.h"

#include "cuda/chain_thread.h"

namespace blatam::cuda {
namespace {

uint64_t size_of(Integer type) { return type == Integer::int32 || type == Integer::uint32 ? 4 : 8; }

bool aligned(const void* pointer, uint64_t to) {
  return reinterpret_cast<uintptr_t>(pointer) % to == 0;
}

}  // namespace

extern "C" {

int blatam_chains_check(const ChainJob* job) {
  const bool signed_bounds = job->bound_type == Integer::int32 || job->bound_type == Integer::int64;
  if (job->block_tokens == 0 || !signed_bounds || job->id_type > Integer::uint64) return kShape;
  if (job->sequences == 0) return kOk;
  if (job->begins == nullptr) {
    const uint64_t rows = job->sequences - 1;
    if (job->row_ids > job->ids_count ||
        (rows != 0 && job->row_stride > (job->ids_count - job->row_ids) / rows))
      return kTooLarge;
  }
  if (job->room > UINT64_MAX / kDigestBytes / job->sequences) return kTooLarge;
  const uint64_t bound = size_of(job->bound_type);
  if (!aligned(job->ids, size_of(job->id_type)) || !aligned(job->begins, bound) ||
      !aligned(job->lengths, bound) || !aligned(job->parents, 8) || !aligned(job->digests, 8) ||
      !aligned(job->counts, 8))
    return kMisaligned;
  return kOk;
}

int blatam_chains_run(const ChainJob* job) {
  if (const int code = blatam_chains_check(job); code != kOk) return code;
  for (uint32_t sequence = 0; sequence < job->sequences; ++sequence) {
    if (size_of(job->id_type) == 4) {
      chain_sequence<uint32_t>(*job, sequence);
    } else {
      chain_sequence<uint64_t>(*job, sequence);
    }
  }
  return kOk;
}

const char* blatam_chains_text(int code) {
  switch (code) {
    case kOk:
      return "nothing is wrong";
    case kShape:
      return "block_tokens must be at least 1, ids of 32 or 64 bits, bounds int32 or int64";
    case kTooLarge:
      return "rows reach beyond the ids, or the digests beyond 2^64 bytes";
    case kMisaligned:
      return "misaligned: ids and bounds must begin at multiples of their size, parents, digests "
             "and counts at multiples of 8 bytes";
    case kElsewhere:
      return "memory that does not belong to the device; move the tensor, or pass its device";
    default:
      return "an unknown code";
  }
}

}  // extern "C"

}  // namespace blatam::cuda
