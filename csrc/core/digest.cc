// BLAKE2b (RFC 7693; parameters with a personalisation as in the BLAKE2 paper, section 2.5) around
// the rounds of blake2b_rounds.h: parameters, key, buffering of a stream, and the widths of tokens.
//
// A key is hashed as a first block of 128 bytes, so the state after it is computed once per salt
// and a block of 16 tokens (32 + 64 bytes) costs one compression. Token buffers of 32 bits are
// hashed where they lie; wider ones are narrowed through a few KiB on the stack.
#include "core/digest.h"

#include <algorithm>
#include <bit>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "core/isa.h"

namespace blatam {

const Blake2b kBlake2bBaseline = {"baseline", blake2b_update<Blake2bPortable>,
                                  blake2b_chain<Blake2bPortable>};

std::span<const Blake2b* const> all_blake2b() noexcept {
#ifdef BLATAM_X86
  static constexpr std::array<const Blake2b*, 2> kAll = {&kBlake2bBaseline, &kBlake2bAvx2};
  const std::span<const Isa> isas = supported_isas();
  const bool avx2 = std::find(isas.begin(), isas.end(), Isa::avx2) != isas.end();
  return std::span(kAll).first(avx2 ? 2 : 1);
#else
  static constexpr std::array<const Blake2b*, 1> kAll = {&kBlake2bBaseline};
  return kAll;
#endif
}

const Blake2b& blake2b() noexcept {
#ifdef BLATAM_X86
  if (isa() != Isa::baseline) return kBlake2bAvx2;
#endif
  return kBlake2bBaseline;
}

namespace {

constexpr size_t kDigestBytes = 32;
constexpr size_t kMaxKeyBytes = 64;
constexpr size_t kMaxPersonBytes = 16;

void require_at_most(size_t bytes, size_t limit, const char* what) {
  if (bytes > limit)
    throw std::invalid_argument(std::string(what) + " has " + std::to_string(bytes) +
                                " bytes; at most " + std::to_string(limit) + " are allowed");
}

Digest digest_of(const std::array<uint64_t, 8>& state) noexcept {
  Digest digest;
  blake2b_digest(state.data(), digest.bytes.data());
  return digest;
}

}  // namespace

DigestKey::DigestKey(std::span<const uint8_t> key, std::span<const uint8_t> person,
                     const Blake2b& implementation)
    : implementation_(&implementation), counter_(key.empty() ? 0 : kBlake2bBlockBytes) {
  require_at_most(key.size(), kMaxKeyBytes, "key");
  require_at_most(person.size(), kMaxPersonBytes, "person");

  // The parameter block: digest length, key length, fan-out 1, depth 1, ..., personalisation.
  std::array<uint8_t, 64> parameters{};
  parameters[0] = kDigestBytes;
  parameters[1] = static_cast<uint8_t>(key.size());
  parameters[2] = 1;
  parameters[3] = 1;
  std::copy(person.begin(), person.end(), parameters.begin() + 48);
  for (size_t i = 0; i < 8; ++i)
    state_[i] = blake2b_iv(static_cast<int>(i)) ^ load_le64(parameters.data() + 8 * i);

  if (key.empty()) return;
  // The key itself is not kept, so the one message whose last block it is must be hashed now.
  std::array<uint8_t, kBlake2bBlockBytes> first{};
  std::copy(key.begin(), key.end(), first.begin());
  std::array<uint64_t, 8> empty = state_;
  implementation.update(empty.data(), first.data(), first.size(), 0, true);
  empty_ = digest_of(empty);
  implementation.update(state_.data(), first.data(), first.size(), 0, false);
}

Digest DigestKey::hash(std::span<const uint8_t> message) const noexcept {
  if (message.empty() && counter_ != 0) return empty_;
  std::array<uint64_t, 8> state = state_;
  implementation_->update(state.data(), message.data(), message.size(), counter_, true);
  return digest_of(state);
}

void DigestKey::chain(const Digest& parent, const unsigned char* pieces, size_t blocks,
                      size_t block_bytes, Digest* out) const noexcept {
  static_assert(sizeof(Digest) == kDigestBytes, "digests are written as one array of bytes");
  implementation_->chain(state_.data(), counter_, parent.bytes.data(), pieces, blocks, block_bytes,
                         reinterpret_cast<unsigned char*>(out));
}

void DigestStream::update(std::span<const uint8_t> piece) noexcept {
  if (piece.empty()) return;
  // Only finish() knows which block is the last, so one block, perhaps a whole one, always waits.
  const Blake2b& implementation = *key_.implementation_;
  const size_t room = pending_.size() - waiting_;
  if (piece.size() > room) {
    if (waiting_ > 0) {
      std::copy_n(piece.begin(), room, pending_.begin() + static_cast<ptrdiff_t>(waiting_));
      implementation.update(state_.data(), pending_.data(), pending_.size(),
                            key_.counter_ + absorbed_, false);
      absorbed_ += pending_.size();
      waiting_ = 0;
      piece = piece.subspan(room);
    }
    const size_t whole = (piece.size() - 1) / kBlake2bBlockBytes * kBlake2bBlockBytes;
    implementation.update(state_.data(), piece.data(), whole, key_.counter_ + absorbed_, false);
    absorbed_ += whole;
    piece = piece.subspan(whole);
  }
  std::copy(piece.begin(), piece.end(), pending_.begin() + static_cast<ptrdiff_t>(waiting_));
  waiting_ += piece.size();
}

void DigestStream::field(std::span<const uint8_t> bytes) {
  if (bytes.size() > UINT32_MAX)
    throw std::length_error("a framed field has " + std::to_string(bytes.size()) +
                            " bytes; at most 4294967295 are allowed");
  std::array<uint8_t, 4> length{};
  for (size_t i = 0; i < 4; ++i) length[i] = static_cast<uint8_t>(bytes.size() >> (24 - 8 * i));
  update(length);
  update(bytes);
}

Digest DigestStream::finish() const noexcept {
  if (waiting_ == 0) return key_.hash({});
  std::array<uint64_t, 8> state = state_;
  key_.implementation_->update(state.data(), pending_.data(), waiting_, key_.counter_ + absorbed_,
                               true);
  return digest_of(state);
}

Digest framed_digest(const DigestKey& key, std::span<const std::span<const uint8_t>> fields) {
  DigestStream stream(key);
  for (const std::span<const uint8_t> field : fields) stream.field(field);
  return stream.finish();
}

// ---- chains -------------------------------------------------------------------------------------

namespace {

// True if an id, or the bitwise or of several, fits in 32 bits.
template <class T>
bool is_token(T id) noexcept {
  if constexpr (std::is_same_v<T, int32_t>) return id >= 0;
  return static_cast<uint64_t>(id) <= UINT32_MAX;
}

// The index of the first id that is no token, or kAllTokensValid. Looks at the or of 64 ids at a
// time, a loop of fixed length without branches, which compilers turn into vectors.
template <class T>
size_t first_invalid(const T* tokens, size_t count) noexcept {
  constexpr size_t kAtOnce = 64;
  size_t start = 0;
  for (; count - start >= kAtOnce; start += kAtOnce) {
    T all = 0;
    for (size_t i = 0; i < kAtOnce; ++i) all = static_cast<T>(all | tokens[start + i]);
    if (!is_token(all)) break;
  }
  for (; start < count; ++start)
    if (!is_token(tokens[start])) return start;
  return kAllTokensValid;
}

// Writes tokens as four little-endian bytes each.
template <class T>
void narrow(const T* tokens, size_t count, unsigned char* to) noexcept {
  for (size_t i = 0; i < count; ++i) {
    uint32_t id = static_cast<uint32_t>(tokens[i]);
    if constexpr (std::endian::native == std::endian::big) id = __builtin_bswap32(id);
    std::memcpy(to + 4 * i, &id, 4);
  }
}

template <class T>
void chain_narrowed(const DigestKey& key, Digest parent, const T* tokens, size_t blocks,
                    size_t block_tokens, Digest* out) noexcept {
  constexpr size_t kRoomTokens = 1024;
  unsigned char room[4 * kRoomTokens];
  if (block_tokens <= kRoomTokens) {
    while (blocks > 0) {
      const size_t now = std::min(blocks, kRoomTokens / block_tokens);
      narrow(tokens, now * block_tokens, room);
      key.chain(parent, room, now, 4 * block_tokens, out);
      parent = out[now - 1];
      tokens += now * block_tokens;
      out += now;
      blocks -= now;
    }
    return;
  }
  for (size_t block = 0; block < blocks; ++block) {
    DigestStream stream(key);
    stream.update(parent.bytes);
    for (size_t left = block_tokens; left > 0;) {
      const size_t now = std::min(left, kRoomTokens);
      narrow(tokens, now, room);
      stream.update({room, 4 * now});
      tokens += now;
      left -= now;
    }
    parent = out[block] = stream.finish();
  }
}

}  // namespace

template <TokenInteger T>
size_t chain_blocks(const DigestKey& key, const Digest& parent, const T* tokens, size_t count,
                    size_t block_tokens, Digest* out) noexcept {
  const size_t blocks = count / block_tokens;
  const size_t invalid = first_invalid(tokens, blocks * block_tokens);
  if (invalid != kAllTokensValid) return invalid;
  if constexpr (sizeof(T) == 4 && std::endian::native == std::endian::little) {
    key.chain(parent, reinterpret_cast<const unsigned char*>(tokens), blocks, 4 * block_tokens,
              out);
  } else {
    chain_narrowed(key, parent, tokens, blocks, block_tokens, out);
  }
  return kAllTokensValid;
}

template size_t chain_blocks(const DigestKey&, const Digest&, const int32_t*, size_t, size_t,
                             Digest*) noexcept;
template size_t chain_blocks(const DigestKey&, const Digest&, const uint32_t*, size_t, size_t,
                             Digest*) noexcept;
template size_t chain_blocks(const DigestKey&, const Digest&, const int64_t*, size_t, size_t,
                             Digest*) noexcept;
template size_t chain_blocks(const DigestKey&, const Digest&, const uint64_t*, size_t, size_t,
                             Digest*) noexcept;

}  // namespace blatam
