// The binary record as docs/FORMAT.md, section 1 has it: reading what is intact, and nothing else.
// Whoever wants to know what is wrong with a record asks Python's record.py, which also makes them.
// All calls are safe from any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace blatam {

inline constexpr size_t kRecordHeaderBytes = 128;
inline constexpr size_t kRecordAlignment = 64;

// A header whose checksum agrees, of version 1, with a known kind and flags and lengths in range.
struct RecordHeader {
  const uint8_t* at;
  uint64_t payload_bytes;
  uint32_t token_count;
  uint32_t body_checksum;
  uint8_t kind;
  bool has_mac;

  [[nodiscard]] bool is_tombstone() const noexcept { return kind == 3; }
  [[nodiscard]] std::span<const uint8_t, 32> key() const noexcept;
  [[nodiscard]] std::span<const uint8_t, 32> tags() const noexcept;
  [[nodiscard]] std::span<const uint8_t, 16> codec() const noexcept;
  [[nodiscard]] uint64_t created_us() const noexcept;
  [[nodiscard]] uint64_t expires_us() const noexcept;
  // From the record's beginning on; requires all of it to be there.
  [[nodiscard]] uint64_t payload_offset() const noexcept;
  [[nodiscard]] uint64_t record_bytes() const noexcept;
};

// Requires 128 bytes at `at`, which the answer points into.
std::optional<RecordHeader> read_record_header(const uint8_t* at) noexcept;

// Copies the payload of the record that begins at header.at to `payload`, and says whether its body
// is intact; if not, what was copied means nothing. Requires header.record_bytes() bytes there and
// room for header.payload_bytes. Reads each byte from memory once.
[[nodiscard]] bool copy_payload(const RecordHeader& header, uint8_t* payload) noexcept;

}  // namespace blatam
