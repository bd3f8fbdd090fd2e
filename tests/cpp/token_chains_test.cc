// Chains of the device's code are those of core's, whatever the widths, the arrangement and the
// borders of blocks and compressions; nothing beyond what was given is read or written, which the
// sanitizers look at: every buffer is as large as it must be.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include "core/digest.h"
#include "cuda/chains.h"

namespace blatam {
namespace {

using cuda::ChainJob;
using cuda::Integer;

std::vector<uint8_t> random_bytes(size_t count, std::mt19937_64& random) {
  std::vector<uint8_t> bytes(count);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
  return bytes;
}

ChainJob job_for(const DigestKey& key, const Digest& parent) {
  ChainJob job = {};
  std::copy(key.state().begin(), key.state().end(), job.state);
  job.counter = key.counter();
  for (size_t i = 0; i < 4; ++i) job.parent[i] = load_le64(parent.bytes.data() + 8 * i);
  return job;
}

template <class Id>
void check(Integer id_type, std::mt19937_64& random) {
  const std::vector<uint8_t> salt = random_bytes(random() % 65, random);
  const DigestKey key(salt);
  const Digest parent = key.hash(random_bytes(9, random));
  const auto sequences = static_cast<uint32_t>(random() % 5);
  const auto block_tokens = static_cast<uint32_t>(1 + random() % 70);
  std::vector<int64_t> begins = {0};
  for (uint32_t i = 0; i < sequences; ++i)
    begins.push_back(begins.back() + static_cast<int64_t>(random() % 200));
  std::vector<Id> ids(static_cast<size_t>(begins.back()));
  for (Id& id : ids) id = static_cast<Id>(random() & 0x7fffffffu);
  uint64_t room = 0;
  for (uint32_t i = 0; i < sequences; ++i)
    room = std::max(room, static_cast<uint64_t>(begins[i + 1] - begins[i]) / block_tokens);
  std::vector<Digest> digests(sequences * room);
  std::vector<int64_t> counts(sequences);

  ChainJob job = job_for(key, parent);
  job.id_type = id_type;
  job.bound_type = Integer::int64;
  job.ids = ids.data();
  job.ids_count = ids.size();
  job.begins = begins.data();
  job.sequences = sequences;
  job.block_tokens = block_tokens;
  job.digests = digests.empty() ? nullptr : digests.front().bytes.data();
  job.room = room;
  job.counts = counts.data();
  ASSERT_EQ(cuda::blatam_chains_run(&job), cuda::kOk);
  for (uint32_t i = 0; i < sequences; ++i) {
    const auto length = static_cast<size_t>(begins[i + 1] - begins[i]);
    std::vector<Digest> expected(length / block_tokens);
    ASSERT_EQ(
        chain_blocks(key, parent, ids.data() + begins[i], length, block_tokens, expected.data()),
        kAllTokensValid);
    ASSERT_EQ(counts[i], static_cast<int64_t>(expected.size()));
    ASSERT_TRUE(std::equal(expected.begin(), expected.end(), digests.begin() + i * room));
  }
}

TEST(TokenChains, AreThoseOfTheHost) {
  std::mt19937_64 random(1);
  for (int round = 0; round < 100; ++round) {
    check<int32_t>(Integer::int32, random);
    check<uint32_t>(Integer::uint32, random);
    check<int64_t>(Integer::int64, random);
    check<uint64_t>(Integer::uint64, random);
  }
}

TEST(TokenChains, BoundsOfAnyValueAreNeverFollowed) {
  std::mt19937_64 random(2);
  const std::vector<int32_t> ids(64, 7);
  for (int round = 0; round < 2000; ++round) {
    int64_t begins[3];
    for (int64_t& begin : begins)
      begin =
          random() % 2 == 0 ? static_cast<int64_t>(random()) : static_cast<int64_t>(random() % 80);
    std::vector<Digest> digests(2 * 3);
    std::vector<int64_t> counts(2);
    ChainJob job = job_for(DigestKey(), Digest());
    job.bound_type = Integer::int64;
    job.ids = ids.data();
    job.ids_count = ids.size();
    job.begins = begins;
    job.sequences = 2;
    job.block_tokens = 16;
    job.digests = digests.front().bytes.data();
    job.room = 3;
    job.counts = counts.data();
    ASSERT_EQ(cuda::blatam_chains_run(&job), cuda::kOk);
    for (int i = 0; i < 2; ++i) {
      const bool inside = begins[i] >= 0 && begins[i] <= begins[i + 1] && begins[i + 1] <= 64;
      const int64_t blocks = inside ? (begins[i + 1] - begins[i]) / 16 : 0;
      ASSERT_EQ(counts[static_cast<size_t>(i)], !inside      ? cuda::kChainBounds
                                                : blocks > 3 ? cuda::kChainRoom
                                                             : blocks);
    }
  }
}

TEST(TokenChains, RowsBeyondTheIdsAndDigestsBeyondMemoryAreRefused) {
  ChainJob job = job_for(DigestKey(), Digest());
  job.bound_type = Integer::int64;
  job.block_tokens = 16;
  job.sequences = 3;
  job.row_ids = 8;
  job.row_stride = 16;
  job.ids_count = 39;
  EXPECT_EQ(cuda::blatam_chains_check(&job), cuda::kTooLarge);
  job.ids_count = 40;
  EXPECT_EQ(cuda::blatam_chains_check(&job), cuda::kOk);
  job.row_stride = UINT64_MAX;
  EXPECT_EQ(cuda::blatam_chains_check(&job), cuda::kTooLarge);
  job.row_stride = 16;
  job.room = UINT64_MAX / 64;
  EXPECT_EQ(cuda::blatam_chains_check(&job), cuda::kTooLarge);
  job.room = 0;
  job.bound_type = Integer::uint64;
  EXPECT_EQ(cuda::blatam_chains_check(&job), cuda::kShape);
}

}  // namespace
}  // namespace blatam
