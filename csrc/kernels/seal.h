// The checksum of a payload, taken while its bytes are in the cache anyway. A payload is written
// and read in two planes, codes and metadata, by shares of rows that threads take; each share sums
// what it touches, and the sums are joined in the order of the payload.
//
// A scheme that can do so fills Job::seal; for others, encode_blob() and decode_blob() take the sum
// in a pass of its own.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

namespace blatam {

// CRC-32C, which lives in core/: finished checksums in and out, as there. Never null.
struct Checksum {
  // Of what has `crc_so_far`, followed by `bytes` bytes at `data`.
  uint32_t (*extend)(uint32_t crc_so_far, const void* data, size_t bytes);
  // Of a || b, from the checksums of both and the length of b.
  uint32_t (*combine)(uint32_t crc_a, uint32_t crc_b, uint64_t bytes_b);
};

struct Seal {
  Checksum checksum;
  uint32_t crc = 0;
  bool done = false;
};

// Values that are worked on between two looks of the checksum: their codes stay in the second
// cache.
constexpr uint64_t kSealValues = uint64_t{1} << 16;

// Where the planes of a payload lie: codes, padding, metadata, whatever follows.
struct Planes {
  const uint8_t* payload;
  uint64_t row_code_bytes;
  uint64_t row_meta_bytes;
  uint64_t rows;
  uint64_t meta_begin;
};

// The sums of each share of one call; without a seal it does nothing.
class PlaneSums {
 public:
  PlaneSums(Seal* seal, const Planes& planes, unsigned shares)
      : seal_(seal), planes_(planes), shares_(seal != nullptr ? shares : 0) {}

  // How many rows of `row_values` to work on at once.
  uint64_t rows_at_once(uint64_t row_values) const {
    return seal_ == nullptr ? UINT64_MAX : std::max<uint64_t>(1, kSealValues / row_values);
  }

  // Rows [begin, end) are there. A share adds its rows in their order.
  void add(unsigned share, uint64_t begin, uint64_t end) {
    if (seal_ == nullptr) return;
    Share& sums = shares_[share];
    sums.codes =
        seal_->checksum.extend(sums.codes, planes_.payload + begin * planes_.row_code_bytes,
                               (end - begin) * planes_.row_code_bytes);
    sums.meta = seal_->checksum.extend(
        sums.meta, planes_.payload + planes_.meta_begin + begin * planes_.row_meta_bytes,
        (end - begin) * planes_.row_meta_bytes);
    sums.rows += end - begin;
  }

  // All rows are there, and so is what follows them, up to `bytes`.
  void finish(uint64_t bytes) {
    if (seal_ == nullptr) return;
    const Checksum& sum = seal_->checksum;
    uint32_t crc = 0;
    for (const Share& share : shares_)
      crc = sum.combine(crc, share.codes, share.rows * planes_.row_code_bytes);
    const uint64_t codes_end = planes_.rows * planes_.row_code_bytes;
    crc = sum.extend(crc, planes_.payload + codes_end, planes_.meta_begin - codes_end);
    for (const Share& share : shares_)
      crc = sum.combine(crc, share.meta, share.rows * planes_.row_meta_bytes);
    const uint64_t meta_end = planes_.meta_begin + planes_.rows * planes_.row_meta_bytes;
    seal_->crc = sum.extend(crc, planes_.payload + meta_end, bytes - meta_end);
    seal_->done = true;
  }

 private:
  struct Share {
    uint32_t codes = 0;
    uint32_t meta = 0;
    uint64_t rows = 0;
  };
  Seal* seal_;
  Planes planes_;
  std::vector<Share> shares_;
};

}  // namespace blatam
