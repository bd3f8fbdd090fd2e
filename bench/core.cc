// The core against what one would write with the standard library. bench/core.py runs this, checks
// the answers and prints the ratios; run it alone for Google Benchmark's own options.
#include <benchmark/benchmark.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <list>
#include <random>
#include <string>
#include <type_traits>
#include <unordered_map>
#include <vector>

#include "core/cache.h"
#include "core/mix.h"
#include "core/policy.h"
#include "core/shard.h"

namespace blatam {
namespace {

const ValueOps kBorrowed = {[](void*) noexcept {}, [](void*) noexcept {}};
char something;

struct PrefixHash {
  size_t operator()(const Digest& digest) const noexcept { return digest.prefix(); }
};

// The peer: an LRU cache as everyone writes it.
template <class Key, class Hash>
class StandardLru {
 public:
  explicit StandardLru(size_t capacity) : capacity_(capacity) {}
  void* get(const Key& key) {
    const auto found = index_.find(key);
    if (found == index_.end()) return nullptr;
    order_.splice(order_.begin(), order_, found->second);
    return found->second->second;
  }
  void put(const Key& key, void* value) {
    if (const auto found = index_.find(key); found != index_.end()) {
      found->second->second = value;
      order_.splice(order_.begin(), order_, found->second);
      return;
    }
    if (index_.size() == capacity_) {
      index_.erase(order_.back().first);
      order_.pop_back();
    }
    order_.emplace_front(key, value);
    index_.emplace(key, order_.begin());
  }

 private:
  using Order = std::list<std::pair<Key, void*>>;
  size_t capacity_;
  Order order_;
  std::unordered_map<Key, typename Order::iterator, Hash> index_;
};

// The cache that is shared between threads, from digest to value.
class OurLru {
 public:
  explicit OurLru(size_t capacity)
      : cache_({.limits = {.entries = capacity}, .policy = "lru", .stripes = 1}) {}
  void* get(const Digest& key) { return cache_.get(key).handle(); }
  void put(const Digest& key, void* handle) {
    Value value(handle, &kBorrowed);
    if (cache_.put(key, value, 0) > PutResult::kReplaced) std::abort();
  }

 private:
  Cache cache_;
};

// A shard alone, from number to pointer: what is under the Python type and under each stripe.
class OurShard {
 public:
  explicit OurShard(size_t capacity, std::string_view policy = "lru", size_t shadows = 1)
      : shard_({.limits = {.entries = capacity},
                .policy = policy,
                .policy_options = {.shadows = shadows}}) {}
  void* get(uint64_t key) {
    const Slot slot = find(key);
    if (slot != kNoSlot) return shard_.hit(slot, 0);
    shard_.miss();
    return nullptr;
  }
  void put(uint64_t key, void* value) {
    Numbers::Removals removals;
    const Slot slot = find(key);
    const PutResult result = slot == kNoSlot ? shard_.insert(mix(key), key, value, {}, removals)
                                             : shard_.replace(slot, key, value, {}, removals);
    if (result > PutResult::kReplaced) std::abort();
  }

 private:
  using Numbers = Shard<uint64_t, void*>;
  [[nodiscard]] Slot find(uint64_t key) const {
    return shard_
        .find(mix(key), [&](uint64_t stored,
                            const uint64_t&) { return stored == key ? Match::kYes : Match::kNo; })
        .slot;
  }
  Numbers shard_;
};

template <class Key>
std::vector<Key> make_keys(size_t count) {
  std::vector<Key> keys(count);
  const DigestKey plain;
  for (uint64_t i = 0; i < count; ++i) {
    if constexpr (std::is_same_v<Key, Digest>) {
      keys[i] = plain.hash({reinterpret_cast<const uint8_t*>(&i), sizeof i});
    } else {
      keys[i] = mix(i);  // an identity hash would walk the peer's buckets in order
    }
  }
  return keys;
}

// Zipf 0.99 over `keys`, as the peers' benchmarks use it.
std::vector<uint32_t> zipf(size_t keys, size_t count) {
  std::vector<double> weights(keys);
  for (size_t i = 0; i < keys; ++i) weights[i] = 1 / std::pow(static_cast<double>(i + 1), 0.99);
  std::discrete_distribution<uint32_t> draw(weights.begin(), weights.end());
  std::mt19937_64 random(1);
  std::vector<uint32_t> sequence(count);
  for (uint32_t& key : sequence) key = draw(random);
  return sequence;
}

constexpr size_t kCapacity = 100'000;
constexpr size_t kSequence = 1 << 20;

template <class Lru, class Key>
void get_hit(benchmark::State& state) {
  static const auto keys = make_keys<Key>(kCapacity);
  Lru lru(kCapacity);
  for (const Key& key : keys) lru.put(key, &something);
  std::mt19937_64 random(2);
  std::vector<uint32_t> sequence(kSequence);
  for (uint32_t& key : sequence) key = static_cast<uint32_t>(random() % kCapacity);
  size_t i = 0;
  for (auto _ : state) {
    if (lru.get(keys[sequence[i++ % kSequence]]) != &something) state.SkipWithError("wrong value");
  }
}

template <class Lru, class Key>
void put_evict(benchmark::State& state) {
  static const auto keys = make_keys<Key>(kSequence);
  Lru lru(kCapacity);
  for (const Key& key : keys) lru.put(key, &something);
  size_t i = 0;
  for (auto _ : state) lru.put(keys[i++ % kSequence], &something);
}

template <class Lru, class Key>
void zipf_get_or_put(benchmark::State& state) {
  static const auto keys = make_keys<Key>(1'000'000);
  static const auto sequence = zipf(keys.size(), kSequence);
  Lru lru(kCapacity);
  size_t i = 0;
  for (auto _ : state) {
    const Key& key = keys[sequence[i++ % kSequence]];
    if (lru.get(key) == nullptr) lru.put(key, &something);
  }
}

using StandardDigestLru = StandardLru<Digest, PrefixHash>;
using StandardNumberLru = StandardLru<uint64_t, std::hash<uint64_t>>;
BENCHMARK(get_hit<OurShard, uint64_t>)->Name("u64 get hit/ours");
BENCHMARK(get_hit<StandardNumberLru, uint64_t>)->Name("u64 get hit/unordered_map+list");
BENCHMARK(put_evict<OurShard, uint64_t>)->Name("u64 put+evict/ours");
BENCHMARK(put_evict<StandardNumberLru, uint64_t>)->Name("u64 put+evict/unordered_map+list");
BENCHMARK(zipf_get_or_put<OurShard, uint64_t>)->Name("u64 zipf get-or-put/ours");
BENCHMARK(zipf_get_or_put<StandardNumberLru, uint64_t>)
    ->Name("u64 zipf get-or-put/unordered_map+list");
BENCHMARK(get_hit<OurLru, Digest>)->Name("digest get hit/ours");
BENCHMARK(get_hit<StandardDigestLru, Digest>)->Name("digest get hit/unordered_map+list");
BENCHMARK(put_evict<OurLru, Digest>)->Name("digest put+evict/ours");
BENCHMARK(put_evict<StandardDigestLru, Digest>)->Name("digest put+evict/unordered_map+list");
BENCHMARK(zipf_get_or_put<OurLru, Digest>)->Name("digest zipf get-or-put/ours");
BENCHMARK(zipf_get_or_put<StandardDigestLru, Digest>)
    ->Name("digest zipf get-or-put/unordered_map+list");

// A policy alone: evict one slot, insert it again, touch another.
void policy_turn(benchmark::State& state, std::string_view name) {
  const auto slots = static_cast<size_t>(state.range(0));
  const auto policy = make_policy(name);
  policy->grow(slots);
  policy->set_capacity(slots);
  for (size_t slot = 0; slot < slots; ++slot)
    policy->insert(static_cast<Slot>(slot), {.hash = mix(slot)});
  std::mt19937_64 random(3);
  std::vector<Slot> touched(kSequence);
  for (Slot& slot : touched) slot = static_cast<Slot>(random() % slots);
  const Pins pins;
  uint64_t inserted = slots;
  size_t i = 0;
  for (auto _ : state) {
    const Item next{.hash = mix(++inserted)};
    const Slot victim = policy->evict(pins, &next);
    policy->insert(victim, next);
    policy->hit(touched[i++ % kSequence]);
  }
}

// What it costs a request to learn, all misses of a get followed by a put.
void learn(benchmark::State& state, std::string_view policy, size_t shadows) {
  static const auto keys = make_keys<uint64_t>(1'000'000);
  static const auto sequence = zipf(keys.size(), kSequence);
  OurShard cache(static_cast<size_t>(state.range(0)), policy, shadows);
  size_t i = 0;
  const auto request = [&] {
    const uint64_t key = keys[sequence[i++ % kSequence]];
    if (cache.get(key) == nullptr) cache.put(key, &something);
  };
  while (i < kSequence) request();
  for (auto _ : state) request();
}

const int registered = [] {
  for (const size_t capacity : {10'000, 100'000}) {
    const auto add = [&](const char* name, std::string_view policy, size_t shadows) {
      benchmark::RegisterBenchmark(name, learn, policy, shadows)
          ->Arg(static_cast<int64_t>(capacity));
    };
    add("learn/lru", "lru", 1);
    add("learn/adaptive sampled", "adaptive", 1 << 10);
    add("learn/adaptive auto", "adaptive", 1 << 14);
    add("learn/adaptive full", "adaptive", 1 << 20);
    add("learn/density full", "density", 1 << 20);
  }
  for (const std::string_view name : policy_names()) {
    benchmark::RegisterBenchmark(("evict+insert+touch/" + std::string(name)).c_str(), policy_turn,
                                 name)
        ->Arg(100'000)
        ->Arg(10'000'000);
  }
  return 0;
}();

}  // namespace
}  // namespace blatam
