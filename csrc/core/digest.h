// Keyed 256-bit digests: the names of cache entries. BLAKE2b-256 (RFC 7693), bit for bit what
// Python's hashlib.blake2b(digest_size=32, key=..., person=...) computes. A DigestKey is the salt
// of one tenant, prepared once; it is immutable, so any number of threads may hash with one. A
// DigestStream belongs to one thread at a time. Nothing here allocates, keeps a pointer after the
// call or stores the key itself.
//
// A chain names every prefix of a prompt: the digest of block i covers its tokens and, through the
// digest of block i - 1, all tokens before it.
#pragma once

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "core/blake2b_rounds.h"

namespace blatam {

struct Digest {
  std::array<uint8_t, 32> bytes{};

  // The first eight bytes as a little-endian number: uniform, so a table may index with it
  // directly.
  uint64_t prefix() const noexcept { return load_le64(bytes.data()); }

  // Takes the same time wherever the first difference is, so that it may also check a MAC.
  friend bool operator==(const Digest& a, const Digest& b) noexcept {
    uint64_t difference = 0;
    for (size_t i = 0; i < 32; i += 8)
      difference |= load_le64(a.bytes.data() + i) ^ load_le64(b.bytes.data() + i);
    return difference == 0;
  }
};

// Every implementation this machine can run, the portable one first, and the one in use.
std::span<const Blake2b* const> all_blake2b() noexcept;
const Blake2b& blake2b() noexcept;

// The state after the parameters and the key, where every message under this key begins.
class DigestKey {
 public:
  // `key`: 0 to 64 bytes, `person`: 0 to 16 bytes that separate uses of one key;
  // std::invalid_argument if either is longer. Tests name an `implementation`.
  explicit DigestKey(std::span<const uint8_t> key = {}, std::span<const uint8_t> person = {},
                     const Blake2b& implementation = blake2b());

  Digest hash(std::span<const uint8_t> message) const noexcept;

  // out[i] = hash(parent_i || i-th of `blocks` pieces of `block_bytes` bytes); parent_0 is
  // `parent`, parent_i is out[i - 1]. Requires: block_bytes >= 1, no part of `out` inside the
  // pieces.
  void chain(const Digest& parent, const unsigned char* pieces, size_t blocks, size_t block_bytes,
             Digest* out) const noexcept;

  // Where every message under this key begins, and the bytes hashed until there: what another
  // device needs to hash. As secret as the key.
  const std::array<uint64_t, 8>& state() const noexcept { return state_; }
  uint64_t counter() const noexcept { return counter_; }

 private:
  friend class DigestStream;

  const Blake2b* implementation_;
  std::array<uint64_t, 8> state_;
  uint64_t counter_;  // bytes already hashed: the key's block, or none
  Digest empty_;      // with a key only: its block is then the last one of an empty message
};

// A message in pieces: the digest is that of the pieces joined.
class DigestStream {
 public:
  explicit DigestStream(const DigestKey& key) noexcept : key_(key), state_(key.state_) {}

  void update(std::span<const uint8_t> piece) noexcept;

  // One framed field: its length as four bytes, big-endian, then its bytes, so that no two lists of
  // fields are the same message. Throws std::length_error beyond 2^32 - 1 bytes: a length cut short
  // would let two requests share a name.
  void field(std::span<const uint8_t> bytes);

  // The digest so far; the stream may go on afterwards.
  Digest finish() const noexcept;

 private:
  DigestKey key_;
  std::array<uint64_t, 8> state_;
  uint64_t absorbed_ = 0;  // message bytes in state_
  size_t waiting_ = 0;     // bytes of pending_; 1 to 128 once there was a message
  std::array<uint8_t, kBlake2bBlockBytes> pending_{};
};

// The digest of framed fields. Throws as DigestStream::field.
Digest framed_digest(const DigestKey& key, std::span<const std::span<const uint8_t>> fields);

// The integers token ids come in: int32, uint32, int64 or uint64.
template <class T>
concept TokenInteger = std::same_as<T, int32_t> || std::same_as<T, uint32_t> ||
                       std::same_as<T, int64_t> || std::same_as<T, uint64_t>;

constexpr size_t kAllTokensValid = SIZE_MAX;

// Digests of the whole blocks of `tokens`: out[i] = H(parent_i || tokens of block i), each token as
// four bytes, little-endian; parent_0 is `parent`, parent_i is out[i - 1]. The integer type makes
// no difference. Tokens after the last whole block are not looked at.
//
// Requires: block_tokens >= 1, room for count / block_tokens digests, none of it inside `tokens`.
// Returns kAllTokensValid; or the index of the first id outside 0 ... 2^32 - 1, with `out`
// untouched.
template <TokenInteger T>
[[nodiscard]] size_t chain_blocks(const DigestKey& key, const Digest& parent, const T* tokens,
                                  size_t count, size_t block_tokens, Digest* out) noexcept;

}  // namespace blatam
