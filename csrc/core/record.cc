#include "core/record.h"

#include <algorithm>
#include <cstring>

#include "core/blake2b_rounds.h"
#include "core/crc32c.h"

namespace blatam {

namespace {

constexpr uint32_t kMagic = 0x564b4289;
constexpr uint16_t kVersion = 1;
constexpr uint8_t kKinds = 3;
constexpr uint8_t kMacFlag = 1;
constexpr uint64_t kMostPayload = uint64_t{1} << 30;
constexpr uint64_t kMostTokens = uint64_t{1} << 16;
// What is copied while the checksum's reading has it in the second level of cache.
constexpr size_t kChunk = size_t{192} << 10;

uint32_t load_le32(const uint8_t* from) noexcept {
  return from[0] | uint32_t{from[1]} << 8 | uint32_t{from[2]} << 16 | uint32_t{from[3]} << 24;
}

constexpr uint64_t filled(uint64_t bytes) {
  return (bytes + kRecordAlignment - 1) / kRecordAlignment * kRecordAlignment;
}

}  // namespace

std::span<const uint8_t, 32> RecordHeader::key() const noexcept {
  return std::span<const uint8_t, 32>(at + 56, 32);
}
std::span<const uint8_t, 32> RecordHeader::tags() const noexcept {
  return std::span<const uint8_t, 32>(at + 88, 32);
}
std::span<const uint8_t, 16> RecordHeader::codec() const noexcept {
  return std::span<const uint8_t, 16>(at + 40, 16);
}
uint64_t RecordHeader::created_us() const noexcept { return load_le64(at + 24); }
uint64_t RecordHeader::expires_us() const noexcept { return load_le64(at + 32); }
uint64_t RecordHeader::payload_offset() const noexcept {
  return kRecordHeaderBytes + filled(uint64_t{4} * token_count);
}
uint64_t RecordHeader::record_bytes() const noexcept {
  return payload_offset() + filled(payload_bytes) + (has_mac ? kRecordAlignment : 0);
}

std::optional<RecordHeader> read_record_header(const uint8_t* at) noexcept {
  if (load_le32(at) != kMagic) return std::nullopt;
  if (crc32c(0, at, kRecordHeaderBytes - 4) != load_le32(at + kRecordHeaderBytes - 4)) {
    return std::nullopt;
  }
  const uint8_t kind = at[6];
  const uint8_t flags = at[7];
  const uint64_t payload = load_le64(at + 8);
  const uint32_t tokens = load_le32(at + 16);
  if ((at[4] | at[5] << 8) != kVersion || kind < 1 || kind > kKinds || (flags & ~kMacFlag) != 0 ||
      payload > kMostPayload || tokens > kMostTokens) {
    return std::nullopt;
  }
  return RecordHeader{at, payload, tokens, load_le32(at + 20), kind, flags != 0};
}

bool copy_payload(const RecordHeader& header, uint8_t* payload) noexcept {
  const uint8_t* from = header.at + header.payload_offset();
  uint32_t crc = crc32c(0, header.at + kRecordHeaderBytes,
                        static_cast<size_t>(header.payload_offset()) - kRecordHeaderBytes);
  for (size_t left = static_cast<size_t>(header.payload_bytes); left > 0;) {
    const size_t bytes = std::min(left, kChunk);
    crc = crc32c(crc, from, bytes);
    std::memcpy(payload, from, bytes);
    from += bytes;
    payload += bytes;
    left -= bytes;
  }
  const uint64_t padding = filled(header.payload_bytes) - header.payload_bytes;
  return crc32c(crc, from, static_cast<size_t>(padding)) == header.body_checksum;
}

}  // namespace blatam
