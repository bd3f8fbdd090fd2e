// The bus on a device that is the host, in both orders: threads, which a sanitizer watches, and the
// latest that events permit, where forgotten ones show as wrong bytes every time.
#include "cuda/bus.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <map>
#include <numeric>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "cuda/host_runtime.h"
#include "cuda/paged.h"

namespace blatam::cuda {
namespace {

using Bytes = std::vector<uint8_t>;
using Order = HostRuntime::Order;

constexpr BusSizes kSizes = {uint64_t{1} << 20, 2, 4096};
constexpr int kLost = kCudaError + 700;

struct Machine {
  explicit Machine(Order order, const BusSizes& sizes = kSizes) {
    auto made = std::make_unique<HostRuntime>(order);
    runtime = made.get();
    EXPECT_EQ(Bus::open(std::move(made), sizes, &bus), kOk);
  }
  HostRuntime* runtime;  // the bus's
  std::shared_ptr<Bus> bus;

  std::shared_ptr<DevicePiece> take(uint64_t bytes) {
    std::shared_ptr<DevicePiece> piece;
    EXPECT_EQ(bus->take(bytes, true, &piece), kOk);
    return piece;
  }
  int up(const std::shared_ptr<DevicePiece>& piece, const Bytes& from, uint64_t at = 0) {
    std::shared_ptr<Mark> done;
    const Bus::Part part = {from, piece, at};
    return bus->up({&part, 1}, &done);
  }
  Bytes down(const std::shared_ptr<DevicePiece>& piece) {
    Bytes found(piece->bytes(), 0xee);
    EXPECT_EQ(bus->down(piece, 0, found), kOk);
    return found;
  }
};

Bytes noise(size_t size, uint64_t seed) {
  std::mt19937_64 random(seed);
  Bytes bytes(size);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
  return bytes;
}

class BusTest : public testing::TestWithParam<Order> {};
INSTANTIATE_TEST_SUITE_P(, BusTest, testing::Values(Order::threads, Order::lazy),
                         [](const auto& order) {
                           return order.param == Order::threads ? "threads" : "lazy";
                         });

TEST_P(BusTest, WhatWentUpComesDownWhateverTheBuffersSize) {
  Machine machine(GetParam());
  for (const size_t size : {0, 1, 4095, 4096, 4097, 8192, 12289, 100000}) {
    const auto piece = machine.take(size);
    const Bytes bytes = noise(size, size);
    ASSERT_EQ(machine.up(piece, bytes), kOk);
    EXPECT_EQ(machine.down(piece), bytes) << size;
  }
}

TEST_P(BusTest, PartsShareBuffersAndTheHostsBytesAreFreeAtOnce) {
  Machine machine(GetParam());
  const auto a = machine.take(20000);
  const auto b = machine.take(300);
  Bytes first = noise(15000, 1);
  Bytes second = noise(5000, 2);
  Bytes third = noise(300, 3);
  const std::vector<Bus::Part> parts = {{second, a, 15000}, {third, b, 0}, {first, a, 0}};
  Bytes expected = first;
  expected.insert(expected.end(), second.begin(), second.end());
  const Bytes rest = third;
  std::shared_ptr<Mark> done;
  ASSERT_EQ(machine.bus->up(parts, &done), kOk);
  for (Bytes* bytes : {&first, &second, &third}) std::fill(bytes->begin(), bytes->end(), 0);
  EXPECT_EQ(machine.down(a), expected);
  EXPECT_EQ(machine.down(b), rest);
  EXPECT_EQ(done->await(), kOk);
}

TEST_P(BusTest, TrafficTellsWhatHasGoneAndWhatIsUnderWay) {
  Machine machine(GetParam());
  const auto piece = machine.take(20000);
  EXPECT_EQ(machine.bus->traffic().buffers, 2u);
  ASSERT_EQ(machine.up(piece, noise(8192, 1)), kOk);
  if (GetParam() == Order::lazy) {
    EXPECT_EQ(machine.bus->traffic().up_busy, 2u);
  }
  ASSERT_EQ(machine.up(piece, noise(5000, 2)), kOk);
  if (GetParam() == Order::lazy) {
    EXPECT_EQ(machine.bus->traffic().up_waits, 2u);
  }
  (void)machine.down(piece);  // which comes after both
  const Bus::Traffic now = machine.bus->traffic();
  EXPECT_EQ(now.up_bytes, 8192u + 5000u);
  EXPECT_EQ(now.down_bytes, 20000u);
  EXPECT_EQ(now.up_busy, 0u);
  EXPECT_EQ(now.down_busy, 0u);
  machine.bus->close();
  EXPECT_EQ(machine.bus->traffic().up_bytes, now.up_bytes);
}

TEST_P(BusTest, APieceIsNotTakenAgainWhileAnythingIsUnderWay) {
  Machine machine(GetParam(), {4096, 2, 4096});
  Runtime::Stream stream = nullptr;
  ASSERT_EQ(machine.runtime->open_stream(&stream), kOk);
  const Bytes old = noise(4096, 1);
  const Bytes young = noise(4096, 2);
  Bytes seen(4096);
  for (int turn = 0; turn < 8; ++turn) {
    auto piece = machine.take(4096);
    ASSERT_EQ(machine.up(piece, old), kOk);
    // A kernel of the caller's reads it, some time.
    ASSERT_EQ(machine.bus->lend({piece}, stream), kOk);
    ASSERT_EQ(machine.runtime->copy(seen.data(), piece->data(), 4096, stream), kOk);
    ASSERT_EQ(machine.bus->lent({piece}, stream), kOk);
    piece.reset();
    piece = machine.take(4096);  // the same memory
    ASSERT_EQ(machine.up(piece, young), kOk);
    EXPECT_EQ(machine.down(piece), young);
    EXPECT_EQ(seen, old);
  }
  machine.runtime->close_stream(stream);
}

TEST_P(BusTest, APoolWithoutRoomSaysSoAndWaitsOnlyForWhatWasGivenBack) {
  Machine machine(GetParam(), {1024, 2, 4096});
  auto piece = machine.take(512);
  std::shared_ptr<DevicePiece> more;
  EXPECT_EQ(machine.bus->take(513, true, &more), kFull);
  EXPECT_EQ(machine.bus->take(uint64_t{1} << 40, true, &more), kFull);
  EXPECT_EQ(machine.bus->take(UINT64_MAX, false, &more), kFull);
  ASSERT_EQ(machine.up(piece, noise(512, 1)), kOk);
  piece.reset();
  if (GetParam() == Order::lazy) {
    EXPECT_EQ(machine.bus->take(1024, false, &more), kFull);
    EXPECT_EQ(machine.bus->pool().taken_bytes(), 512u);
  }
  EXPECT_EQ(machine.bus->take(1024, true, &more), kOk);
}

// ---- kernels ------------------------------------------------------------------------------------

// A cache of one tensor of raw bfloat16, in slots of one token each.
struct Engine {
  static constexpr uint32_t kTokens = 8, kHeads = 2, kDim = 64;
  static constexpr uint64_t kTokenBytes = 2 * kHeads * kDim, kPayload = kTokens * kTokenBytes;

  Bytes values;
  explicit Engine(uint64_t seed) : values(noise(32 * kTokenBytes, seed)) {}

  Job job(const Machine& machine, DevicePiece& control, DevicePiece& payload) const {
    Job job = {};
    job.tokens = kTokens, job.kv_heads = kHeads, job.head_dim = kDim;
    job.block_tokens = 1, job.run = kDim;
    job.block_bytes = kTokenBytes, job.head_bytes = 2 * kDim;
    job.slot_limit = 32;
    job.blocks = 1, job.tensors = 1;
    job.payload_room = kPayload;
    job.slots = reinterpret_cast<const int64_t*>(control.data());
    job.bytes = reinterpret_cast<uint64_t*>(control.data() + 8 * kTokens);
    job.places = reinterpret_cast<const uint64_t*>(control.data() + 8 * kTokens + 8);
    job.faults = reinterpret_cast<uint32_t*>(control.data() + 8 * kTokens + 16);
    job.payloads = machine.bus->pool().base();
    job.tensor[0] = {const_cast<uint8_t*>(values.data()), payload.at()};
    return job;
  }
  // Of tokens that lie in slots 3, 5, 7, ...
  static Bytes control(const DevicePiece& payload) {
    int64_t words[kTokens + 3] = {};
    for (uint32_t i = 0; i < kTokens; ++i) words[i] = 3 + 2 * i;
    words[kTokens] = kPayload;
    words[kTokens + 1] = static_cast<int64_t>(payload.at());
    Bytes bytes(sizeof words);
    memcpy(bytes.data(), words, sizeof words);
    return bytes;
  }
  Bytes tokens() const {
    Bytes found;
    for (uint32_t i = 0; i < kTokens; ++i)
      found.insert(found.end(), values.begin() + (3 + 2 * i) * kTokenBytes,
                   values.begin() + (4 + 2 * i) * kTokenBytes);
    return found;
  }
};

TEST_P(BusTest, KernelsRunAfterTheCopiesTheyNeedAndBeforeThoseThatNeedThem) {
  Machine machine(GetParam());
  const Engine from(1);
  Engine to(2);
  for (int turn = 0; turn < 5; ++turn) {
    auto payload = machine.take(Engine::kPayload);
    auto control = machine.take(256);
    ASSERT_EQ(machine.up(control, Engine::control(*payload)), kOk);
    Job job = from.job(machine, *control, *payload);
    job.places = nullptr;
    std::shared_ptr<Mark> done;
    ASSERT_EQ(machine.bus->run(job, true, {payload, control}, &done), kOk);
    const Bytes stored = machine.down(payload);
    EXPECT_EQ(stored, from.tokens());

    // Another piece, and by its place.
    auto other = machine.take(Engine::kPayload);
    ASSERT_EQ(machine.up(other, stored), kOk);
    ASSERT_EQ(machine.up(control, Engine::control(*other)), kOk);
    job = to.job(machine, *control, *payload);
    ASSERT_EQ(machine.bus->run(job, false, {other, control}, &done), kOk);
    other.reset();  // while it may still be read
    ASSERT_EQ(machine.up(machine.take(Engine::kPayload), noise(Engine::kPayload, 9)), kOk);
    ASSERT_EQ(done->hold(nullptr), kOk);
    EXPECT_EQ(to.tokens(), from.tokens());
    to = Engine(2);
  }
}

TEST_P(BusTest, TheBusesStreamFollowsTheCallers) {
  Machine machine(GetParam());
  Runtime::Stream stream = nullptr;
  ASSERT_EQ(machine.runtime->open_stream(&stream), kOk);
  Engine engine(1);
  const Engine later(2);
  const auto payload = machine.take(Engine::kPayload);
  const auto control = machine.take(256);
  ASSERT_EQ(machine.up(control, Engine::control(*payload)), kOk);
  // The caller's model is still writing the cache.
  ASSERT_EQ(
      machine.runtime->copy(engine.values.data(), later.values.data(), later.values.size(), stream),
      kOk);
  ASSERT_EQ(machine.bus->follow(stream), kOk);
  std::shared_ptr<Mark> done;
  ASSERT_EQ(
      machine.bus->run(engine.job(machine, *control, *payload), true, {payload, control}, &done),
      kOk);
  EXPECT_EQ(machine.down(payload), later.tokens());
  machine.runtime->close_stream(stream);
}

TEST_P(BusTest, AJobThatIsWrongIsRefusedAtOnce) {
  Machine machine(GetParam());
  const Engine engine(1);
  const auto payload = machine.take(Engine::kPayload);
  const auto control = machine.take(256);
  Job job = engine.job(machine, *control, *payload);
  job.payload_room = 10;
  std::shared_ptr<Mark> done;
  EXPECT_EQ(machine.bus->run(job, true, {payload, control}, &done), kRoom);
  job = engine.job(machine, *control, *payload);
  job.places = reinterpret_cast<const uint64_t*>(control->data() + 4);
  EXPECT_EQ(machine.bus->run(job, false, {payload, control}, &done), kMisaligned);
  EXPECT_EQ(machine.up(payload, noise(8, 1), Engine::kPayload - 7), kOutside);
  EXPECT_EQ(machine.up(payload, noise(8, 1), UINT64_MAX), kOutside);
  Bytes room(8);
  EXPECT_EQ(machine.bus->down(payload, Engine::kPayload - 7, room), kOutside);
}

// ---- failing ------------------------------------------------------------------------------------

TEST_P(BusTest, OpeningFailsCleanlyWhereverTheDeviceFails) {
  std::shared_ptr<Bus> bus;
  for (uint64_t calls = 0; calls < 8; ++calls) {
    auto runtime = std::make_unique<HostRuntime>(GetParam());
    runtime->fail_after(calls, kLost, false);
    EXPECT_EQ(Bus::open(std::move(runtime), kSizes, &bus), kLost) << calls;
    EXPECT_EQ(bus, nullptr);
  }
  for (const BusSizes& sizes :
       {BusSizes{255, 2, 4096}, BusSizes{4096, 1, 4096}, BusSizes{4096, 2, 4095}})
    EXPECT_EQ(Bus::open(std::make_unique<HostRuntime>(GetParam()), sizes, &bus), kTooSmall);
}

// Whatever call fails, once or from then on: an error or the right bytes, never others.
TEST_P(BusTest, AFailureIsAnErrorAndNeverWrongBytes) {
  int noticed = 0;
  for (const bool forever : {false, true}) {
    for (uint64_t calls = 0; calls < 60; ++calls) {
      Machine machine(GetParam(), {32768, 2, 4096});
      std::mt19937_64 random(calls);
      machine.runtime->fail_after(calls, kLost, forever);
      std::map<uint64_t, std::pair<std::shared_ptr<DevicePiece>, Bytes>> held;
      int failures = 0;
      for (uint64_t step = 0; step < 30; ++step) {
        if (held.size() == 3) held.erase(held.begin());
        std::shared_ptr<DevicePiece> piece;
        int code = machine.bus->take(9000, true, &piece);
        const Bytes bytes = noise(1 + random() % 9000, step);
        if (code == kOk) code = machine.up(piece, bytes);
        if (code == kOk) held[step] = {piece, bytes};
        failures += code != kOk;
        EXPECT_TRUE(code == kOk || code == kLost) << code;
        if (held.empty()) continue;
        const auto& [there, expected] = held.begin()->second;
        Bytes found(expected.size());
        code = machine.bus->down(there, 0, found);
        failures += code != kOk;
        if (code == kOk) {
          EXPECT_EQ(found, expected) << calls << " " << step;
        }
      }
      // One question whether something has passed may go unanswered unnoticed.
      EXPECT_TRUE(failures > 0 || !forever);
      noticed += failures > 0;
    }
  }
  EXPECT_GE(noticed, 100);
}

TEST_P(BusTest, WorkThatCouldNotBeMarkedBreaksTheBus) {
  Machine machine(GetParam());
  const auto piece = machine.take(5000);
  // Opening the mark, then the copy; then what records that the buffer is in use.
  machine.runtime->fail_after(2, kLost, false);
  EXPECT_EQ(machine.up(piece, noise(100, 1)), kLost);
  EXPECT_EQ(machine.up(piece, noise(100, 1)), kLost);
  std::shared_ptr<DevicePiece> more;
  EXPECT_EQ(machine.bus->take(1, false, &more), kLost);
  Bytes room(8);
  EXPECT_EQ(machine.bus->down(piece, 0, room), kLost);
}

// ---- the pool by itself -------------------------------------------------------------------------

TEST(PoolTest, PiecesNeverOverlapAndAllOfItIsOnePieceAgainAtTheEnd) {
  HostRuntime runtime;
  std::unique_ptr<Pool> pool;
  ASSERT_EQ(Pool::open(runtime, 100000, &pool), kOk);
  const uint64_t whole = 100000 / Pool::kAlignment * Pool::kAlignment;
  EXPECT_EQ(pool->bytes(), whole);
  std::mt19937_64 random(1);
  std::map<uint64_t, Pool::Piece> held;  // the reference: by where they begin
  uint64_t taken = 0;
  for (int step = 0; step < 20000; ++step) {
    if (random() % 2 == 0 && !held.empty()) {
      const auto at = std::next(held.begin(), static_cast<long>(random() % held.size()));
      taken -= Pool::rounded(at->second.bytes);
      pool->give(at->second, {});
      held.erase(at);
    } else {
      Pool::Piece piece;
      const uint64_t bytes = random() % (step % 100 == 0 ? 50000 : 3000);
      const int code = pool->take(bytes, true, &piece);
      // The largest gap, by looking at all of them.
      uint64_t largest = 0;
      uint64_t at = 0;
      for (const auto& [begin, other] : held) {
        largest = std::max(largest, begin - at);
        at = begin + Pool::rounded(other.bytes);
      }
      largest = std::max(largest, whole - at);
      ASSERT_EQ(code, Pool::rounded(bytes) <= largest ? kOk : kFull);
      if (code != kOk) continue;
      const auto next = held.lower_bound(piece.at);
      if (next != held.end()) {
        ASSERT_LE(piece.at + Pool::rounded(bytes), next->first);
      }
      if (next != held.begin()) {
        ASSERT_GE(piece.at, std::prev(next)->first + Pool::rounded(std::prev(next)->second.bytes));
      }
      ASSERT_LE(piece.at + Pool::rounded(bytes), whole);
      ASSERT_EQ(piece.at % Pool::kAlignment, 0u);
      held.emplace(piece.at, piece);
      taken += Pool::rounded(bytes);
    }
    ASSERT_EQ(pool->taken_bytes(), taken);
  }
  for (const auto& [at, piece] : held) pool->give(piece, {});
  Pool::Piece all;
  EXPECT_EQ(pool->take(whole, false, &all), kOk);
}

// ---- threads ------------------------------------------------------------------------------------

TEST_P(BusTest, ClosingDoesWhatIsUnderWayAlsoOnADeviceThatFailsAndRefusesTheRest) {
  Machine machine(GetParam());
  const auto piece = machine.take(5000);
  const Bytes bytes = noise(5000, 1);
  std::shared_ptr<Mark> done;
  const Bus::Part part = {bytes, piece, 0};
  ASSERT_EQ(machine.bus->up({&part, 1}, &done), kOk);
  dynamic_cast<HostRuntime&>(machine.bus->runtime()).fail_after(0, kCudaError + 4, true);
  machine.bus->close();
  machine.bus->close();
  EXPECT_EQ(memcmp(piece->data(), bytes.data(), bytes.size()), 0);
  EXPECT_EQ(machine.bus->up({&part, 1}, &done), kClosed);
  Bytes found(5000);
  EXPECT_EQ(machine.bus->down(piece, 0, found), kClosed);
  std::shared_ptr<DevicePiece> another;
  EXPECT_EQ(machine.bus->take(1, true, &another), kClosed);
  EXPECT_EQ(machine.bus->follow(nullptr), kClosed);
}

TEST_P(BusTest, ThreadsSeeTheirOwnBytesInASmallPool) {
  Machine machine(GetParam(), {65536, 3, 4096});
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (uint64_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937_64 random(t);
      for (uint64_t step = 0; step < 60; ++step) {
        const Bytes bytes = noise(1 + random() % 12000, 1000 * t + step);
        std::shared_ptr<DevicePiece> piece;
        std::shared_ptr<Mark> done;
        int code;
        while ((code = machine.bus->take(bytes.size(), true, &piece)) == kFull)
          std::this_thread::yield();
        const Bus::Part part = {bytes, piece, 0};
        if (code != kOk || machine.bus->up({&part, 1}, &done) != kOk) ++wrong;
        Bytes found(bytes.size());
        if (machine.bus->down(piece, 0, found) != kOk || found != bytes) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace blatam::cuda
