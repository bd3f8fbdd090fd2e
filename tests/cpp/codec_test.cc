// Every instruction set gives the baseline's blobs and values, whatever the bits, the shape and the
// address; and a blob that was changed at random is refused or decoded, within its memory (the
// sanitizers watch).
#include "kernels/codec.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <span>
#include <vector>

#include "core/crc32c.h"
#include "core/isa.h"

namespace blatam {
namespace {

using Bytes = std::vector<uint8_t>;

constexpr Checksum kChecksum = {crc32c, crc32c_combine};

// A tensor in memory of its own, between guard bytes, at an odd multiple of its values' size.
struct Tensor {
  Bytes memory;
  View<uint8_t> view;

  Tensor(const Shape& shape, Dtype dtype) {
    const auto row = static_cast<int64_t>(shape.head_dim * dtype_bytes(dtype));
    const size_t lead = dtype_bytes(dtype);
    memory.resize(lead + shape.values() * dtype_bytes(dtype));
    view = {memory.data() + lead, shape, dtype, row * shape.kv_heads, row};
  }
  Source source() const {
    return {view.data, view.shape, view.dtype, view.token_bytes, view.head_bytes};
  }
  std::span<uint8_t> bytes() const {
    return {view.data, view.shape.values() * dtype_bytes(view.dtype)};
  }
};

void fill(const Tensor& tensor, std::mt19937_64& random, bool any_bits) {
  const auto bytes = tensor.bytes();
  const size_t size = dtype_bytes(tensor.view.dtype);
  for (size_t i = 0; i < bytes.size(); i += size) {
    uint32_t bits = static_cast<uint32_t>(random());
    if (!any_bits) {  // numbers of ordinary size
      if (tensor.view.dtype == Dtype::bf16) bits = (bits & 0x81ffu) | 0x3e00u;
      if (tensor.view.dtype == Dtype::fp16) bits = (bits & 0x8fffu) | 0x3000u;
      if (tensor.view.dtype == Dtype::fp32) bits = (bits & 0x81ffffffu) | 0x3e000000u;
    }
    for (size_t j = 0; j < size; ++j) bytes[i + j] = static_cast<uint8_t>(bits >> (8 * j));
  }
}

Bytes encoded(const Kernels& kernels, const Codec& codec, Kind kind, const Source& source,
              bool checksum) {
  const Job job = {kernels, 1, 5, nullptr};
  Header header;
  header.codec = &codec;
  header.kind = kind;
  header.checksum = checksum;
  Bytes blob(blob_bytes(codec, kind, source.shape, source.dtype));
  const uint64_t bytes = encode_blob(job, header, source, kChecksum, blob);
  const bool fits = bytes <= blob.size();
  blob.resize(bytes);
  if (!fits) {
    EXPECT_EQ(encode_blob(job, header, source, kChecksum, blob), bytes);
  }
  return blob;
}

Fault decoded(const Kernels& kernels, std::span<const uint8_t> blob, Tensor* out) {
  Header header;
  if (const Fault fault = read_header(blob, kChecksum, &header)) return fault;
  *out = Tensor(header.shape, header.dtype);
  return decode_blob({kernels, 1, 0, nullptr}, blob, header, kChecksum, out->view);
}

constexpr Shape kShapes[] = {{1, 1, 1},     {2, 3, 40},   {65, 2, 64},  {67, 1, 80},  {64, 1, 120},
                             {130, 2, 128}, {3, 17, 128}, {66, 1, 200}, {64, 1, 576}, {5, 1, 1000}};

TEST(Codecs, EveryInstructionSetGivesTheBaselinesBits) {
  std::mt19937_64 random(1);
  for (const Shape& shape : kShapes)
    for (const Dtype dtype : {Dtype::bf16, Dtype::fp16, Dtype::fp32})
      for (const bool any_bits : {false, true}) {
        const Tensor tensor(shape, dtype);
        fill(tensor, random, any_bits);
        for (const Codec& codec : codecs())
          for (const Kind kind : {Kind::key, Kind::value}) {
            const Bytes blob = encoded(kKernelsBaseline, codec, kind, tensor.source(), true);
            Tensor expected(shape, dtype);
            ASSERT_FALSE(decoded(kKernelsBaseline, blob, &expected)) << codec.name;
            for (const Isa isa : supported_isas()) {
              const Kernels& kernels = kernels_for(isa_name(isa));
              ASSERT_STREQ(kernels.isa, isa_name(isa));
              ASSERT_EQ(encoded(kernels, codec, kind, tensor.source(), true), blob)
                  << codec.name << " " << isa_name(isa) << " " << shape.head_dim;
              Tensor found(shape, dtype);
              ASSERT_FALSE(decoded(kernels, blob, &found));
              ASSERT_TRUE(std::ranges::equal(found.bytes(), expected.bytes()))
                  << codec.name << " " << isa_name(isa) << " " << shape.head_dim;
            }
          }
      }
}

TEST(Codecs, AChangedBlobIsRefusedOrDecodedWithinItsMemory) {
  std::mt19937_64 random(2);
  for (const Codec& codec : codecs())
    for (const Shape& shape : {Shape{66, 2, 72}, Shape{3, 3, 40}}) {
      const Tensor tensor(shape, Dtype::bf16);
      fill(tensor, random, true);
      const Bytes blob =
          encoded(kernels_for(isa_name(isa())), codec, Kind::key, tensor.source(), false);
      for (int round = 0; round < 200; ++round) {
        Bytes changed = blob;
        for (uint64_t changes = 1 + random() % 8; changes > 0; --changes) {
          // Mostly the end, where lengths and indices are.
          const size_t span = random() % 2 == 0 ? changed.size() - kHeaderBytes
                                                : std::min<size_t>(64, changed.size() - 64);
          changed[changed.size() - 1 - random() % span] = static_cast<uint8_t>(random());
        }
        Tensor out(shape, Dtype::bf16);
        const Fault fault = decoded(kernels_for(isa_name(isa())), changed, &out);
        EXPECT_FALSE(fault.unsupported);
      }
    }
}

TEST(Codecs, WithAChecksumEveryFlippedBitIsSeen) {
  std::mt19937_64 random(3);
  for (const Codec& codec : codecs()) {
    const Tensor tensor({65, 1, 16}, Dtype::fp16);
    fill(tensor, random, true);
    Bytes blob = encoded(kKernelsBaseline, codec, Kind::key, tensor.source(), true);
    for (size_t bit = 0; bit < 8 * blob.size(); bit += 3) {
      blob[bit / 8] ^= static_cast<uint8_t>(1u << bit % 8);
      Tensor out({65, 1, 16}, Dtype::fp16);
      EXPECT_TRUE(decoded(kKernelsBaseline, blob, &out)) << codec.name << " bit " << bit;
      blob[bit / 8] ^= static_cast<uint8_t>(1u << bit % 8);
    }
  }
}

TEST(Codecs, NothingIsWrittenBeyondARoomThatIsTooSmall) {
  std::mt19937_64 random(4);
  for (const Codec& codec : codecs())
    for (const bool any_bits : {false, true}) {
      const Tensor tensor({70, 2, 72}, Dtype::bf16);
      fill(tensor, random, any_bits);
      const Bytes blob = encoded(kKernelsBaseline, codec, Kind::key, tensor.source(), true);
      Header header;
      header.codec = &codec;
      header.kind = Kind::key;
      for (size_t room = 0; room < blob.size(); room += 1 + room / 3) {
        Bytes small(room);  // exactly, so that the sanitizer sees one byte more
        EXPECT_GT(encode_blob({kKernelsBaseline, 1, 5, nullptr}, header, tensor.source(), kChecksum,
                              small),
                  room)
            << codec.name;
      }
    }
}

TEST(Codecs, ThreadsGiveTheBytesOfOne) {
  std::mt19937_64 random(6);
  const Tensor tensor({520, 2, 72}, Dtype::fp16);
  fill(tensor, random, true);
  const Kernels& kernels = kernels_for(isa_name(isa()));
  for (const Codec& codec : codecs())
    for (const Kind kind : {Kind::key, Kind::value}) {
      const Bytes blob = encoded(kernels, codec, kind, tensor.source(), true);
      Header header;
      ASSERT_FALSE(read_header(blob, kChecksum, &header));
      Tensor expected({520, 2, 72}, Dtype::fp16);
      ASSERT_FALSE(decode_blob({kernels, 1, 0, nullptr}, blob, header, kChecksum, expected.view));
      for (const unsigned threads : {2u, 5u}) {
        const Job job = {kernels, threads, 5, nullptr};
        Bytes other(blob.size());
        ASSERT_EQ(encode_blob(job, header, tensor.source(), kChecksum, other), blob.size());
        ASSERT_EQ(other, blob) << codec.name;
        Tensor found({520, 2, 72}, Dtype::fp16);
        ASSERT_FALSE(decode_blob(job, blob, header, kChecksum, found.view));
        ASSERT_TRUE(std::ranges::equal(found.bytes(), expected.bytes())) << codec.name;
      }
    }
}

TEST(Codecs, ShapesThatOverflowAreInvalid) {
  EXPECT_TRUE(valid_shape({0, 1, 1}));
  EXPECT_TRUE(valid_shape({uint64_t{1} << 56, 1, 1}));
  EXPECT_FALSE(valid_shape({(uint64_t{1} << 56) + 1, 1, 1}));
  EXPECT_FALSE(valid_shape({UINT64_MAX, 1, 1}));
  EXPECT_FALSE(valid_shape({UINT64_MAX, UINT32_MAX, UINT32_MAX}));
  EXPECT_FALSE(valid_shape({1, 0, 1}));
  EXPECT_FALSE(valid_shape({1, 1, 0}));
}

}  // namespace
}  // namespace blatam
