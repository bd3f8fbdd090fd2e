// The oracle for BLAKE2b is Python's hashlib, by the table below and, at any length, by
// tests/test_digest.py; the oracle for a chain is hashing each block by itself.
#include "core/digest.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "core/isa.h"

namespace blatam {
namespace {

using Bytes = std::vector<uint8_t>;

// Message byte i is 7 i + 3, key byte i is i, person byte i is 0x70 + i. Made by
//   hashlib.blake2b(message, digest_size=32, key=key, person=person).hexdigest()
struct Vector {
  size_t message_bytes;
  size_t key_bytes;
  size_t person_bytes;
  const char* hex;
};

constexpr Vector kVectors[] = {
    {0, 0, 0, "0e5751c026e543b2e8ab2eb06099daa1d1e5df47778f7787faab45cdf12fe3a8"},
    {1, 0, 0, "e88bd757ad5b9bedf372d8d3f0cf6c962a469db61a265f6418e1ffed86da29ec"},
    {63, 0, 0, "a69e023685fa5f19fca13acc02142a9cf8450ce5b77966586e0d000c4a4ea942"},
    {64, 0, 0, "586c0dd87616ec042093edc5f87f880d37ca73618e99b03d5850ce9be478721f"},
    {96, 0, 0, "52f2fb65a4563775202c1dda62659625a45c7b866ab8db470ccd05c776aade25"},
    {127, 0, 0, "c9ae3859964b35f04c54b36d33cf299d7290ee621005d28e51598a943560aaaa"},
    {128, 0, 0, "f0501d06597880592bc49234eef100ec1ff349058d0e9d9b753504e24af86dd6"},
    {129, 0, 0, "a34a4e1e03c541dfbf3099c4b6c143c022ced65c28bd7e8a10e0a098461aecf0"},
    {255, 0, 0, "f2d64a40e9412a3414161ff6250075225418fd7c271c1123e162e1bca0de9f93"},
    {256, 0, 0, "d93ebb9c802f5630ab22516fd82b6c21bc8bd551d531349b715f046ed11ed871"},
    {257, 0, 0, "4ce481b24d387422d2bc2baa03d1afd55a1327939ff537c71eb9b38709268649"},
    {288, 0, 0, "808860d337fe7d4453eb55642e55d399bce631c23e74cd7d4c3377c3424fc5aa"},
    {1000, 0, 0, "d62b6c768ce1afc8367e0498ab2f8e3f7c178c35b1429f14c4604b545d200f52"},
    {0, 32, 0, "4e51e7a913fc80137da52880fecca175bf81e117d5c68126dc2774033517ea0d"},
    {1, 32, 0, "5500a8ed696e45255a024afc49a57aa45ea21a254c30dcdea61da13552c6c0b1"},
    {63, 32, 0, "65ed751b6cc98288757e4f413b4277750743c0ad41a9b2fcdc1c7304beb6ffc5"},
    {64, 32, 0, "3d06a36e883b81698a5a35101181be548af80cd22150c48475b8ef46bb313a29"},
    {96, 32, 0, "936c9d32f19b45eae03afeafc69fd6d2c3af6b69c4855e28e6a87014ee13f9c0"},
    {127, 32, 0, "c3253e55529ca7cb4a3a1002693e4619dbe2058b7adf354274208dc607a3870d"},
    {128, 32, 0, "45b27f69ea3c381242d369fafdfc8cbd54e710c242bea80d0372c8df23776cda"},
    {129, 32, 0, "b0534a69d4c565fa8c962fb05d0f2ce99f70dddad00a95a220abf0b2ea4f41c8"},
    {255, 32, 0, "068b81fe7962997facc482936c6d5d026cdb7c833428aff87262eb31ce3001a1"},
    {256, 32, 0, "80408e16e6976cfa903a875c075c9affc55d71dd0674fd02a279cab70a312a96"},
    {257, 32, 0, "98bfc6a3d52e5cb525e045aab764641f05ae6821a04d4777112cd195fcbcb8c2"},
    {288, 32, 0, "9c7bf53019f8ebaed2cfba932dbd8d91dcfdee5d85306a28a9c129e8833c57cf"},
    {1000, 32, 0, "eb07b428f1674f6598aaecf9b898c520824910d6f4c531e6f62f81b9d5946387"},
    {0, 64, 16, "66a2d847f3759b6278ba29eff3c3282b1e08bfd8a1d7d61657d779efca4e0096"},
    {1, 64, 16, "a311cd8f8e13b897be03ec832e9f939af94b725982a7d0fe2873b746025769ac"},
    {63, 64, 16, "e0c7317d2d7e1b5e16817bf5c7fad97a501a7ed71b1ae82b31b5af973bed30d2"},
    {64, 64, 16, "4df147ddb478caeeb7752948adbee6270426f88ac070fd9b1c0b37d615ac2899"},
    {96, 64, 16, "69e687e2c9e7f0a1a48c01f71a47122fe094db734e7766e9eb40be4adf43b7a8"},
    {127, 64, 16, "a6c727a7a79fa63cdf9d7ec1af5ae863284f9ef4ae870d21a54f54ebd6c838a1"},
    {128, 64, 16, "d151f8c726f192ffd2de70b8876a645754a9fc6df40fa4937bee3fc5a5d8f8c2"},
    {129, 64, 16, "b17fea3a980d7ddbacc21c068bd4c8d49125f1fa3b6caef12a194404ab1868a6"},
    {255, 64, 16, "38c64da443ce1e9390aa0968dc84fc8a8614c93a2287d629f66119389ec2c212"},
    {256, 64, 16, "b64b891dc07eea3f7b4109e2fd1d47e65a84fdba1c8440c16eb4f450c9935fc6"},
    {257, 64, 16, "5c6015c440d5f430541e2d96e360872aa8be3823e97dd169db832c96604eab49"},
    {288, 64, 16, "3f9a127e668e7c4974508919d28546103a8131013f9d48292b5c3f65f7ccbe72"},
    {1000, 64, 16, "473b4d05f2d4ce4a5dd575c65f49081c4dd93498754ae509289dc08515e410fb"},
};

Bytes count_up(size_t bytes, unsigned first, unsigned step) {
  Bytes out(bytes);
  for (size_t i = 0; i < bytes; ++i) out[i] = static_cast<uint8_t>(first + step * i);
  return out;
}

Bytes random_bytes(std::mt19937_64& random, size_t bytes) {
  Bytes out(bytes);
  for (uint8_t& byte : out) byte = static_cast<uint8_t>(random());
  return out;
}

std::string hex(const Digest& digest) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string out;
  for (const uint8_t byte : digest.bytes) {
    out += kDigits[byte >> 4];
    out += kDigits[byte & 15];
  }
  return out;
}

// What chain_blocks promises, one block at a time.
std::vector<Digest> chain_slowly(const DigestKey& key, const Digest& first_parent,
                                 const std::vector<uint32_t>& tokens, size_t block_tokens) {
  std::vector<Digest> out;
  Digest parent = first_parent;
  for (size_t end = block_tokens; end <= tokens.size(); end += block_tokens) {
    Bytes message(parent.bytes.begin(), parent.bytes.end());
    for (size_t i = end - block_tokens; i < end; ++i)
      for (int shift = 0; shift < 32; shift += 8)
        message.push_back(static_cast<uint8_t>(tokens[i] >> shift));
    parent = key.hash(message);
    out.push_back(parent);
  }
  return out;
}

template <class T>
std::vector<Digest> chain(const DigestKey& key, const Digest& parent, const std::vector<T>& tokens,
                          size_t block_tokens) {
  std::vector<Digest> out(tokens.size() / block_tokens);
  EXPECT_EQ(chain_blocks(key, parent, tokens.data(), tokens.size(), block_tokens, out.data()),
            kAllTokensValid);
  return out;
}

TEST(Digest, EqualsHashlibOnEveryImplementation) {
  for (const Blake2b* implementation : all_blake2b())
    for (const Vector& vector : kVectors) {
      const DigestKey key(count_up(vector.key_bytes, 0, 1), count_up(vector.person_bytes, 0x70, 1),
                          *implementation);
      EXPECT_EQ(hex(key.hash(count_up(vector.message_bytes, 3, 7))), vector.hex)
          << implementation->isa << ", " << vector.message_bytes << " bytes, key of "
          << vector.key_bytes;
    }
}

TEST(Digest, AllImplementationsAgree) {
  std::mt19937_64 random(1);
  const Bytes data = random_bytes(random, 1024 + 8);
  const Bytes salt = random_bytes(random, 32);
  const DigestKey portable(salt, {}, kBlake2bBaseline);
  for (const Blake2b* implementation : all_blake2b()) {
    const DigestKey key(salt, {}, *implementation);
    for (size_t bytes = 0; bytes <= 1024; ++bytes) {
      const auto message = std::span(data).subspan(random() % 8, bytes);
      ASSERT_EQ(key.hash(message), portable.hash(message)) << implementation->isa << " " << bytes;
    }
  }
}

TEST(Digest, StreamEqualsOneShotHoweverItIsCut) {
  std::mt19937_64 random(2);
  for (const Blake2b* implementation : all_blake2b())
    for (const size_t key_bytes : {0u, 32u}) {
      const DigestKey key(random_bytes(random, key_bytes), {}, *implementation);
      for (int round = 0; round < 500; ++round) {
        const Bytes message = random_bytes(random, random() % 700);
        const size_t longest = 1 + random() % 300;
        DigestStream stream(key);
        for (size_t start = 0; start < message.size();) {
          const size_t bytes = std::min(message.size() - start, random() % (longest + 1));
          stream.update(std::span(message).subspan(start, bytes));
          start += bytes;
          ASSERT_EQ(stream.finish(), key.hash(std::span(message).first(start)));
        }
        ASSERT_EQ(stream.finish(), key.hash(message));
      }
    }
}

TEST(Digest, StreamGoesOnAfterItsKeyIsGone) {
  DigestStream stream = [] { return DigestStream(DigestKey(count_up(32, 0, 1))); }();
  stream.update(count_up(5, 0, 1));
  EXPECT_EQ(stream.finish(), DigestKey(count_up(32, 0, 1)).hash(count_up(5, 0, 1)));
}

TEST(Digest, FramedFieldsEqualTheirFramesJoined) {
  const DigestKey key(count_up(32, 0, 1));
  const Bytes one = count_up(3, 'a', 1);
  const Bytes two = count_up(258, 0, 1);
  const Bytes joined = [&] {
    Bytes out = {0, 0, 0, 3, 'a', 'b', 'c', 0, 0, 0, 0, 0, 0, 1, 2};
    out.insert(out.end(), two.begin(), two.end());
    return out;
  }();
  const std::span<const uint8_t> fields[] = {one, {}, two};
  EXPECT_EQ(framed_digest(key, fields), key.hash(joined));
  EXPECT_EQ(framed_digest(key, {}), key.hash({}));
}

// The response vector of docs on tenant isolation: salt from HMAC-SHA256, fields of one request.
TEST(Digest, ResponseDigestEqualsItsPublishedVector) {
  const Bytes salt = {0xb0, 0xef, 0x4f, 0xc0, 0x3c, 0x05, 0xeb, 0x4f, 0xda, 0xc6, 0x0f,
                      0xce, 0x93, 0xe3, 0xc4, 0xad, 0xb5, 0x9b, 0x1b, 0xb8, 0x0c, 0xd6,
                      0x3c, 0xd9, 0x07, 0xe9, 0x00, 0xb6, 0xf3, 0x9b, 0x1e, 0xf5};
  const std::string_view person = "blatamkv-resp-v1";
  const DigestKey key(salt, Bytes(person.begin(), person.end()));
  DigestStream stream(key);
  for (const std::string_view field : {"truthgpt", "0.0", "512", "markdown", "Informe solar"})
    stream.field(Bytes(field.begin(), field.end()));
  EXPECT_EQ(hex(stream.finish()),
            "e8162db7d76c9625784391c2a61a0234fc53877a997114d5120bb8aa80367ea1");
}

TEST(Digest, KeysAndPersonsOfAnyAllowedLengthDiffer) {
  std::vector<Digest> seen;
  for (size_t bytes = 0; bytes <= 64; ++bytes)
    seen.push_back(DigestKey(Bytes(bytes, 0)).hash(Bytes{1}));
  for (size_t bytes = 1; bytes <= 16; ++bytes)
    seen.push_back(DigestKey({}, Bytes(bytes, 9)).hash(Bytes{1}));
  for (size_t i = 0; i < seen.size(); ++i)
    for (size_t j = 0; j < i; ++j) EXPECT_FALSE(seen[i] == seen[j]) << i << " " << j;
}

TEST(Digest, TooLongKeyOrPersonThrows) {
  EXPECT_THROW(DigestKey(Bytes(65)), std::invalid_argument);
  EXPECT_THROW(DigestKey({}, Bytes(17)), std::invalid_argument);
}

TEST(Digest, PrefixIsTheFirstEightBytesLittleEndian) {
  Digest digest;
  for (uint8_t i = 0; i < 32; ++i) digest.bytes[i] = i;
  EXPECT_EQ(digest.prefix(), 0x0706050403020100u);
}

TEST(Digest, EqualityLooksAtEveryByte) {
  const Digest digest = DigestKey().hash({});
  for (size_t i = 0; i < 32; ++i) {
    Digest other = digest;
    other.bytes[i] ^= 0x40;
    EXPECT_FALSE(digest == other);
  }
  EXPECT_TRUE(digest == Digest(digest));
}

TEST(Chain, EqualsHashingEachBlockForEveryTypeAndImplementation) {
  std::mt19937_64 random(3);
  for (const Blake2b* implementation : all_blake2b())
    for (const size_t key_bytes : {0u, 32u}) {
      const DigestKey key(random_bytes(random, key_bytes), {}, *implementation);
      const Digest parent = key.hash(random_bytes(random, 10));
      // Around one compression (24 tokens), the usual sizes, and around the narrowing buffer
      // (1024).
      for (const size_t block_tokens :
           {1u, 2u, 15u, 16u, 23u, 24u, 25u, 64u, 1000u, 1024u, 1500u}) {
        std::vector<uint32_t> tokens(5 * block_tokens + block_tokens / 2);
        for (uint32_t& token : tokens) token = static_cast<uint32_t>(random());
        const std::vector<Digest> expected = chain_slowly(key, parent, tokens, block_tokens);
        EXPECT_EQ(chain(key, parent, tokens, block_tokens), expected);
        EXPECT_EQ(
            chain(key, parent, std::vector<int64_t>(tokens.begin(), tokens.end()), block_tokens),
            expected);
        EXPECT_EQ(
            chain(key, parent, std::vector<uint64_t>(tokens.begin(), tokens.end()), block_tokens),
            expected);
        // An int32 holds only the lower half of the ids.
        for (uint32_t& token : tokens) token &= 0x7fffffffu;
        EXPECT_EQ(
            chain(key, parent, std::vector<int32_t>(tokens.begin(), tokens.end()), block_tokens),
            chain_slowly(key, parent, tokens, block_tokens));
      }
    }
}

TEST(Chain, ManySmallBlocksOfWideTokensCrossTheNarrowingBuffer) {
  const DigestKey key;
  std::vector<uint32_t> tokens(16 * 300);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<uint32_t>(i * 2654435761u);
  EXPECT_EQ(chain(key, {}, std::vector<int64_t>(tokens.begin(), tokens.end()), 16),
            chain_slowly(key, {}, tokens, 16));
}

TEST(Chain, ContinuesFromTheLastDigest) {
  const DigestKey key;
  const std::vector<int32_t> tokens(160, 7);
  const std::vector<Digest> all = chain(key, {}, tokens, 16);
  const std::vector<int32_t> rest(tokens.begin() + 64, tokens.end());
  EXPECT_EQ(chain(key, all[3], rest, 16), std::vector<Digest>(all.begin() + 4, all.end()));
}

TEST(Chain, TailAndLessThanABlockGiveNothing) {
  const DigestKey key;
  const std::vector<int32_t> tail = {1, 2, 3, 4, 5, -6};  // the tail is not even looked at
  EXPECT_EQ(chain(key, {}, tail, 5), chain(key, {}, std::vector<int32_t>{1, 2, 3, 4, 5}, 5));
  EXPECT_TRUE(chain(key, {}, std::vector<int32_t>(15, 1), 16).empty());
  EXPECT_EQ(chain_blocks<int64_t>(key, {}, nullptr, 0, 16, nullptr), kAllTokensValid);
  EXPECT_TRUE(chain(key, {}, std::vector<uint32_t>(3, 1), SIZE_MAX / 2).empty());
}

template <class T>
void expect_invalid_ids_found(const std::vector<T>& invalid_ids) {
  const DigestKey key;
  for (const T id : invalid_ids)
    for (const size_t at : {0u, 1u, 63u, 64u, 200u, 319u}) {
      std::vector<T> tokens(320, 5);
      tokens[at] = id;
      tokens[319] = id;
      std::vector<Digest> out(20);
      EXPECT_EQ(chain_blocks(key, {}, tokens.data(), tokens.size(), 16, out.data()), at);
      EXPECT_EQ(out, std::vector<Digest>(20)) << "written although an id was invalid";
    }
}

TEST(Chain, FirstInvalidIdIsReportedAndNothingIsWritten) {
  expect_invalid_ids_found<int32_t>({-1, INT32_MIN});
  expect_invalid_ids_found<int64_t>({-1, INT64_MIN, int64_t{1} << 32, INT64_MAX});
  expect_invalid_ids_found<uint64_t>({uint64_t{1} << 32, UINT64_MAX});
}

TEST(Chain, ThreadsShareOneKey) {
  const DigestKey key(count_up(32, 0, 1));
  const std::vector<int32_t> tokens(1600, 3);
  const std::vector<Digest> expected = chain(key, {}, tokens, 16);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] { EXPECT_EQ(chain(key, {}, tokens, 16), expected); });
  for (std::thread& thread : threads) thread.join();
}

TEST(Isa, NamesOfThisMachineAreAcceptedAndOthersExplained) {
  for (const Isa isa : supported_isas()) EXPECT_EQ(isa_from_name(isa_name(isa)), isa);
  EXPECT_EQ(supported_isas().front(), Isa::baseline);
  try {
    (void)isa_from_name("sse9");
    FAIL() << "accepted";
  } catch (const std::invalid_argument& error) {
    EXPECT_NE(std::string_view(error.what()).find("BLATAM_KV_ISA=sse9"), std::string_view::npos);
    for (const Isa isa : supported_isas())
      EXPECT_NE(std::string_view(error.what()).find(isa_name(isa)), std::string_view::npos);
  }
}

}  // namespace
}  // namespace blatam
