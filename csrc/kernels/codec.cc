#include "kernels/codec.h"

#include <array>
#include <bit>
#include <cstring>

#include "kernels/arithmetic.h"
#include "kernels/schemes.h"

namespace blatam {

static_assert(std::endian::native == std::endian::little, "payloads are copied as they are");

namespace {

// A new codec is one file with its scheme and one line here. Ids are for ever.
constexpr std::array kRegistry = {
    Codec{1, "raw", &kRaw, &kRaw},
    Codec{2, "exp4", &kExp4, &kExp4},
    Codec{3, "exp_huff", &kExpHuff, &kExpHuff},
    Codec{4, "int8", &kToken8, &kToken8},
    Codec{5, "int8_kc", &kChannel8, &kToken8},
    Codec{6, "k8v4", &kToken8, &kToken4},
    Codec{7, "int4", &kToken4, &kToken4},
    Codec{8, "int4_kc", &kChannel4, &kToken4},
    Codec{9, "int4_rot", &kRotated4, &kRotated4},
    Codec{10, "tq4", &kLevels4, &kLevels4},
    Codec{11, "tq3", &kLevels3, &kLevels3},
    Codec{12, "k4v3", &kChannel4, &kLevels3},
    Codec{32, "fp8_e4m3", &kFp8, &kFp8},
    Codec{33, "int8_per_token_head", &kHead8, &kHead8},
    Codec{34, "q8_0", &kQ8, &kQ8},
};

// ---- the header ---------------------------------------------------------------------------------

constexpr std::array<uint8_t, 4> kMagic = {'B', 'K', 'V', 'Q'};
constexpr uint8_t kVersion = 1;
constexpr uint16_t kHasChecksum = 1;

// Where a header's fields begin.
enum Offset : size_t {
  kVersionAt = 4,
  kCodecAt = 5,
  kDtypeAt = 6,
  kKindAt = 7,
  kFlagsAt = 8,
  kGroupAt = 10,
  kHeadDimAt = 12,
  kTokensAt = 16,
  kKvHeadsAt = 24,
  kReservedAt = 28,
  kSeedAt = 32,
  kPayloadBytesAt = 40,
  kPayloadCrcAt = 48,
  kReservedTooAt = 52,
  kHeaderCrcAt = 60,
};

void write_header(const Header& header, uint32_t payload_crc, const Checksum& crc32c,
                  uint8_t* out) {
  std::memset(out, 0, kHeaderBytes);
  std::memcpy(out, kMagic.data(), kMagic.size());
  out[kVersionAt] = kVersion;
  out[kCodecAt] = header.codec->id;
  out[kDtypeAt] = static_cast<uint8_t>(header.dtype);
  out[kKindAt] = static_cast<uint8_t>(header.kind);
  store_bits<uint16_t>(out + kFlagsAt, header.checksum ? kHasChecksum : 0);
  store_bits<uint16_t>(out + kGroupAt, header.scheme().group);
  store_bits<uint32_t>(out + kHeadDimAt, header.shape.head_dim);
  store_bits<uint64_t>(out + kTokensAt, header.shape.tokens);
  store_bits<uint32_t>(out + kKvHeadsAt, header.shape.kv_heads);
  store_bits<uint64_t>(out + kSeedAt, header.seed);
  store_bits<uint64_t>(out + kPayloadBytesAt, header.payload_bytes);
  store_bits<uint32_t>(out + kPayloadCrcAt, payload_crc);
  store_bits<uint32_t>(out + kHeaderCrcAt, crc32c.extend(0, out, kHeaderCrcAt));
}

}  // namespace

bool valid_shape(const Shape& shape) noexcept {
  if (shape.kv_heads == 0 || shape.head_dim == 0) return false;
  const uint64_t row = uint64_t{shape.kv_heads} * shape.head_dim;  // below 2^64
  return row <= kMostValues && shape.tokens <= kMostValues / row;
}

std::span<const Codec> codecs() noexcept { return kRegistry; }

const Codec* find_codec(std::string_view name) noexcept {
  for (const Codec& codec : kRegistry)
    if (codec.name == name) return &codec;
  return nullptr;
}

const Codec* find_codec(uint8_t id) noexcept {
  for (const Codec& codec : kRegistry)
    if (codec.id == id) return &codec;
  return nullptr;
}

uint64_t blob_bytes(const Codec& codec, Kind kind, const Shape& shape, Dtype dtype) noexcept {
  return kHeaderBytes + codec.scheme(kind).most_bytes(shape, dtype);
}

uint64_t encode_blob(const Job& job, const Header& asked, const Source& source,
                     const Checksum& crc32c, std::span<uint8_t> out) {
  Header header = asked;
  const Scheme& scheme = header.scheme();
  if (out.size() < kHeaderBytes)
    return blob_bytes(*header.codec, header.kind, source.shape, source.dtype);
  const auto payload = out.subspan(kHeaderBytes);
  Seal seal = {crc32c, 0, false};
  const Job sealed = {job.kernels, job.threads, job.seed, header.checksum ? &seal : nullptr};
  header.payload_bytes = scheme.encode(sealed, source, payload);
  const uint64_t bytes = kHeaderBytes + header.payload_bytes;
  if (bytes > out.size()) return bytes;
  header.shape = source.shape;
  header.dtype = source.dtype;
  header.seed = job.seed;
  uint32_t crc = 0;
  if (header.checksum)
    crc = seal.done ? seal.crc : crc32c.extend(0, payload.data(), header.payload_bytes);
  write_header(header, crc, crc32c, out.data());
  return bytes;
}

void seal_blob(const Header& asked, const Checksum& crc32c, std::span<uint8_t> blob) {
  Header header = asked;
  const auto payload = blob.subspan(kHeaderBytes);
  header.payload_bytes = payload.size();
  const uint32_t crc = header.checksum ? crc32c.extend(0, payload.data(), payload.size()) : 0;
  write_header(header, crc, crc32c, blob.data());
}

Fault check_payload(std::span<const uint8_t> blob, const Header& header, const Checksum& crc32c) {
  if (!header.checksum) return {};
  const auto payload = blob.subspan(kHeaderBytes);
  const auto expected = load_bits<uint32_t>(blob.data() + kPayloadCrcAt);
  if (crc32c.extend(0, payload.data(), payload.size()) != expected)
    return {"the payload's checksum does not match", false};
  return {};
}

Fault read_header(std::span<const uint8_t> blob, const Checksum& crc32c, Header* header) noexcept {
  const uint8_t* const at = blob.data();
  if (blob.size() < kHeaderBytes) return {"shorter than a header"};
  if (std::memcmp(at, kMagic.data(), kMagic.size()) != 0) return {"not a blob of blatam_kv"};
  // The version comes first: a later one may place its checksum elsewhere.
  if (at[kVersionAt] != kVersion) return {"a version that this build does not read", true};
  if (load_bits<uint32_t>(at + kHeaderCrcAt) != crc32c.extend(0, at, kHeaderCrcAt))
    return {"the header's checksum does not match"};
  header->codec = find_codec(at[kCodecAt]);
  if (header->codec == nullptr) return {"a codec that this build does not have", true};
  if (at[kDtypeAt] > static_cast<uint8_t>(Dtype::fp32)) return {"an unknown dtype"};
  if (at[kKindAt] > static_cast<uint8_t>(Kind::key)) return {"an unknown kind"};
  header->dtype = static_cast<Dtype>(at[kDtypeAt]);
  header->kind = static_cast<Kind>(at[kKindAt]);
  const auto flags = load_bits<uint16_t>(at + kFlagsAt);
  if ((flags & ~kHasChecksum) != 0) return {"unknown flags"};
  header->checksum = (flags & kHasChecksum) != 0;
  header->shape.head_dim = load_bits<uint32_t>(at + kHeadDimAt);
  header->shape.tokens = load_bits<uint64_t>(at + kTokensAt);
  header->shape.kv_heads = load_bits<uint32_t>(at + kKvHeadsAt);
  header->seed = load_bits<uint64_t>(at + kSeedAt);
  header->payload_bytes = load_bits<uint64_t>(at + kPayloadBytesAt);
  if (load_bits<uint32_t>(at + kReservedAt) != 0 || load_bits<uint64_t>(at + kReservedTooAt) != 0)
    return {"reserved bytes are not zero"};
  if (load_bits<uint16_t>(at + kGroupAt) != header->scheme().group) return {"another group size"};
  if (!valid_shape(header->shape)) return {"an impossible shape"};
  if (header->payload_bytes != blob.size() - kHeaderBytes)
    return {blob.size() - kHeaderBytes < header->payload_bytes ? "truncated"
                                                               : "bytes after the end"};
  if (header->payload_bytes < header->scheme().least_bytes(header->shape, header->dtype))
    return {"a payload too short for its shape"};
  return {};
}

Fault decode_blob(const Job& job, std::span<const uint8_t> blob, const Header& header,
                  const Checksum& crc32c, const Target& target) {
  const auto payload = blob.subspan(kHeaderBytes);
  const Scheme& scheme = header.scheme();
  Job mine = {job.kernels, job.threads, header.seed, nullptr};
  if (!header.checksum) return {scheme.decode(mine, payload, target), false};
  const Fault changed = {"the payload's checksum does not match", false};
  const auto expected = load_bits<uint32_t>(blob.data() + kPayloadCrcAt);
  if (!scheme.seals && crc32c.extend(0, payload.data(), payload.size()) != expected) return changed;
  Seal seal = {crc32c, 0, false};
  if (scheme.seals) mine.seal = &seal;
  const char* const reason = scheme.decode(mine, payload, target);
  // A scheme that finds a fault may stop before it has summed everything.
  if (scheme.seals && !seal.done) seal.crc = crc32c.extend(0, payload.data(), payload.size());
  if (scheme.seals && seal.crc != expected) return changed;
  return {reason, false};
}

}  // namespace blatam
