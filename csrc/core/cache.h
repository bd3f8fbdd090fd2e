// A Cache maps 256-bit digests to values it knows nothing about, from any number of threads: Shards
// behind striped locks, chosen by the digest. The lock of a stripe is held for tens of nanoseconds,
// never while a value is released, and no call takes two.
//
// Each stripe holds its share of the limits and evicts on its own, so with more than one stripe the
// order of eviction is the policy's within a stripe, and a value larger than a stripe's share of
// the bytes is refused. One stripe gives the policy exactly.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string_view>
#include <utility>
#include <vector>

#include "core/digest.h"
#include "core/shard.h"

namespace blatam {

// How the owner of a kind of value shares and releases it. Both are called with the handle; retain
// under a stripe's lock, so it must be quick and take no lock itself; release outside of it.
struct ValueOps {
  void (*retain)(void* handle) noexcept;
  void (*release)(void* handle) noexcept;
};

// One counted reference to somebody's value: an opaque handle and how to let go of it.
class Value {
 public:
  Value() = default;
  // Takes over one reference. Requires handle != nullptr.
  Value(void* handle, const ValueOps* ops) noexcept : handle_(handle), ops_(ops) {}
  Value(Value&& other) noexcept
      : handle_(std::exchange(other.handle_, nullptr)), ops_(other.ops_) {}
  Value& operator=(Value&& other) noexcept {
    std::swap(handle_, other.handle_);
    std::swap(ops_, other.ops_);
    return *this;
  }
  ~Value() {
    if (handle_ != nullptr) ops_->release(handle_);
  }

  [[nodiscard]] explicit operator bool() const noexcept { return handle_ != nullptr; }
  [[nodiscard]] void* handle() const noexcept { return handle_; }
  [[nodiscard]] Value share() const noexcept {
    if (handle_ != nullptr) ops_->retain(handle_);
    return handle_ != nullptr ? Value(handle_, ops_) : Value();
  }

 private:
  void* handle_ = nullptr;
  const ValueOps* ops_ = nullptr;
};

struct CacheOptions {
  Limits limits{};
  std::string_view policy = "lru";
  PolicyOptions policy_options{};
  size_t stripes = 0;  // a power of two; 0: chosen by the limits
};

class Cache {
 public:
  // Throws std::invalid_argument for an unknown policy, a number of stripes that is not a power of
  // two, or limits too small for that many stripes.
  explicit Cache(const CacheOptions& options);

  // The value, or an empty one on a miss. What is returned stays valid after eviction, until the
  // caller lets go of it.
  [[nodiscard]] Value get(const Digest& key, Nanoseconds now = 0);
  // deadline: 0 for never. Takes the value only if it returns kInserted or kReplaced.
  [[nodiscard]] PutResult put(const Digest& key, Value& value, uint64_t size,
                              Nanoseconds deadline = 0, Nanoseconds now = 0, double cost = 1);
  // Without counting a hit or a use.
  [[nodiscard]] bool contains(const Digest& key, Nanoseconds now = 0) const;
  bool remove(const Digest& key);
  // False if the key is not here (or, for unpin, not pinned).
  bool pin(const Digest& key, Nanoseconds now = 0);
  bool unpin(const Digest& key);
  void expire(Nanoseconds now);
  void clear();
  void resize(Limits limits);

  [[nodiscard]] Stats stats() const;
  [[nodiscard]] size_t stripes() const noexcept { return stripes_.size(); }

 private:
  using KeyedShard = Shard<Digest, Value>;
  struct alignas(64) Stripe {
    explicit Stripe(const ShardOptions& options) : shard(options) {}
    mutable std::mutex mutex;
    KeyedShard shard;
  };

  [[nodiscard]] Stripe& stripe_of(const Digest& key) const noexcept {
    // The top bits: the table uses the low ones.
    return *stripes_[shift_ == 64 ? 0 : key.prefix() >> shift_];
  }

  std::vector<std::unique_ptr<Stripe>> stripes_;
  unsigned shift_ = 64;
};

}  // namespace blatam
