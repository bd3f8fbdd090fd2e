// Codecs by name, and blobs: a header of 64 bytes that says all a reader needs, then a payload
// (docs/CODECS.md defines both, byte for byte). A codec has one scheme for keys and one for values;
// a scheme lays a tensor out in a payload and takes it back. All calls are safe from any thread,
// keep no pointer and never throw on what a blob contains; encode and decode may throw
// std::bad_alloc.
//
// To add a codec: a file with its Scheme, and a line in codec.cc.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "kernels/kernels.h"
#include "kernels/seal.h"
#include "kernels/tensor.h"

namespace blatam {

// How the work is done; none of it changes a bit of the result, but for the seed.
struct Job {
  const Kernels& kernels = kKernelsBaseline;
  unsigned threads = 1;
  uint64_t seed = 0;     // of the signs of a rotation
  Seal* seal = nullptr;  // where the payload's checksum is wanted
};

// More values than this in one tensor are refused, so that no size computed from a shape that was
// accepted can overflow.
constexpr uint64_t kMostValues = uint64_t{1} << 56;

// True if the dimensions are at least 1 (tokens: 0) and the values at most kMostValues.
[[nodiscard]] bool valid_shape(const Shape& shape) noexcept;

struct Scheme {
  // Values that share a scale; 0 where there is none.
  uint16_t group;
  // True if the values come back bit for bit, whatever they are.
  bool lossless;
  // The least and the most bytes of a payload, groups that escape not counted. They differ where
  // the size depends on the values. The shape is valid.
  uint64_t (*least_bytes)(const Shape& shape, Dtype dtype);
  uint64_t (*most_bytes)(const Shape& shape, Dtype dtype);
  // Writes the payload and returns its bytes. If that is more than `payload` has, nothing beyond it
  // was written, what was is not a payload, and the answer is how much to offer.
  uint64_t (*encode)(const Job& job, const Source& source, std::span<uint8_t> payload);
  // Fills `target`, of the shape and dtype that the header names. Returns nullptr, or what is wrong
  // with the payload; the target's contents are then unspecified. At least least_bytes are there.
  const char* (*decode)(const Job& job, std::span<const uint8_t> payload, const Target& target);
  // True if encode and decode fill Job::seal themselves, and decode harms nothing before it is
  // known to match.
  bool seals = false;
};

struct Codec {
  uint8_t id;
  std::string_view name;
  const Scheme* key;
  const Scheme* value;

  const Scheme& scheme(Kind kind) const noexcept { return kind == Kind::key ? *key : *value; }
};

// Every codec, in the order of their ids.
std::span<const Codec> codecs() noexcept;
// nullptr if there is none of this name or id.
const Codec* find_codec(std::string_view name) noexcept;
const Codec* find_codec(uint8_t id) noexcept;

// Copies the values of one tensor to another of the same shape and dtype; they do not overlap.
void copy_values(const Source& source, const Target& target);

// ---- blobs --------------------------------------------------------------------------------------

constexpr size_t kHeaderBytes = 64;

struct Header {
  const Codec* codec = nullptr;
  Dtype dtype = Dtype::bf16;
  Kind kind = Kind::value;
  bool checksum = true;  // of the payload; the header always has its own
  Shape shape;
  uint64_t seed = 0;
  uint64_t payload_bytes = 0;

  const Scheme& scheme() const noexcept { return codec->scheme(kind); }
};

// What is wrong with a blob: nothing (reason is nullptr), damage, or a version or codec that this
// build does not know.
struct Fault {
  const char* reason = nullptr;
  bool unsupported = false;

  explicit operator bool() const noexcept { return reason != nullptr; }
};

// The size of a blob for values that are all finite; where it depends on them, the most it can be.
// The shape is valid.
uint64_t blob_bytes(const Codec& codec, Kind kind, const Shape& shape, Dtype dtype) noexcept;

// Writes a blob of `source` into `out` and returns its bytes. If that is more than `out` has, `out`
// holds no blob, and the answer is how much to offer. `header` says codec, kind and checksum; the
// rest of it is taken from the source and the job. Requires a valid shape.
uint64_t encode_blob(const Job& job, const Header& header, const Source& source,
                     const Checksum& crc32c, std::span<uint8_t> out);

// Makes a blob of a payload that was encoded elsewhere: writes the header of kHeaderBytes in front
// of it. `blob` is header and payload together. Requires a valid shape.
void seal_blob(const Header& header, const Checksum& crc32c, std::span<uint8_t> blob);

// What is wrong with the payload's checksum; nothing where it has none. The blob's header was read.
Fault check_payload(std::span<const uint8_t> blob, const Header& header, const Checksum& crc32c);

// Reads and checks a header, and that the blob is as long as it says; not the payload.
Fault read_header(std::span<const uint8_t> blob, const Checksum& crc32c, Header* header) noexcept;

// Checks the payload and fills `target`, which has the shape and dtype of the header.
Fault decode_blob(const Job& job, std::span<const uint8_t> blob, const Header& header,
                  const Checksum& crc32c, const Target& target);

}  // namespace blatam
