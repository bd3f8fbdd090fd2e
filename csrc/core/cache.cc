#include "core/cache.h"

#include <bit>
#include <stdexcept>
#include <string>

namespace blatam {
namespace {

// Enough stripes that threads rarely meet, few enough that each stripe's share is still large
// against one entry.
constexpr size_t kMostStripes = 64;
constexpr uint64_t kEntriesPerStripe = 4096;
constexpr uint64_t kBytesPerStripe = 64ull << 20;

size_t choose_stripes(const CacheOptions& options) {
  if (options.stripes != 0) return options.stripes;
  uint64_t stripes = kMostStripes;
  if (options.limits.entries != 0) {
    stripes = std::min(stripes, options.limits.entries / kEntriesPerStripe);
  }
  if (options.limits.bytes != 0) {
    stripes = std::min(stripes, options.limits.bytes / kBytesPerStripe);
  }
  return stripes < 2 ? 1 : std::bit_floor(static_cast<size_t>(stripes));
}

// The share of stripe i: they add up to the whole.
uint64_t share(uint64_t whole, size_t stripes, size_t i) {
  return whole / stripes + (i < whole % stripes ? 1 : 0);
}

Limits share(Limits limits, size_t stripes, size_t i) {
  return {share(limits.entries, stripes, i), share(limits.bytes, stripes, i)};
}

void check(Limits limits, size_t stripes) {
  if ((limits.entries != 0 && limits.entries < stripes) ||
      (limits.bytes != 0 && limits.bytes < stripes)) {
    throw std::invalid_argument("limits below one entry or byte for each of " +
                                std::to_string(stripes) + " stripes");
  }
}

auto same(const Digest& key) {
  return [&key](const Digest& other, const uint64_t&) {
    return other == key ? Match::kYes : Match::kNo;
  };
}

}  // namespace

Cache::Cache(const CacheOptions& options) {
  const size_t stripes = choose_stripes(options);
  if (!std::has_single_bit(stripes)) {
    throw std::invalid_argument("stripes must be a power of two, not " + std::to_string(stripes));
  }
  check(options.limits, stripes);
  shift_ = 64 - static_cast<unsigned>(std::countr_zero(stripes));
  stripes_.reserve(stripes);
  for (size_t i = 0; i < stripes; ++i) {
    stripes_.push_back(std::make_unique<Stripe>(
        ShardOptions{share(options.limits, stripes, i), options.policy, options.policy_options}));
  }
}

// In each function below `removals` is declared before the lock, so that it is dropped after it.

Value Cache::get(const Digest& key, Nanoseconds now) {
  KeyedShard::Removals removals;
  Stripe& stripe = stripe_of(key);
  const std::lock_guard lock(stripe.mutex);
  KeyedShard& shard = stripe.shard;
  const Slot slot = shard.find(key.prefix(), same(key)).slot;
  if (slot == kNoSlot) {
    shard.miss();
    return Value();
  }
  if (shard.expired(slot, now)) {
    shard.remove(slot, Reason::kExpired, removals);
    shard.miss();
    return Value();
  }
  return shard.hit(slot, now).share();
}

PutResult Cache::put(const Digest& key, Value& value, uint64_t size, Nanoseconds deadline,
                     Nanoseconds now, double cost) {
  KeyedShard::Removals removals;
  Digest copy = key;
  Stripe& stripe = stripe_of(key);
  const std::lock_guard lock(stripe.mutex);
  KeyedShard& shard = stripe.shard;
  const KeyedShard::Put put{size, deadline, now, cost};
  Slot slot = shard.find(key.prefix(), same(key)).slot;
  if (slot != kNoSlot && shard.expired(slot, now)) {
    shard.remove(slot, Reason::kExpired, removals);
    slot = kNoSlot;
  }
  return slot == kNoSlot ? shard.insert(key.prefix(), copy, value, put, removals)
                         : shard.replace(slot, copy, value, put, removals);
}

bool Cache::contains(const Digest& key, Nanoseconds now) const {
  const Stripe& stripe = stripe_of(key);
  const std::lock_guard lock(stripe.mutex);
  const Slot slot = stripe.shard.find(key.prefix(), same(key)).slot;
  return slot != kNoSlot && !stripe.shard.expired(slot, now);
}

bool Cache::remove(const Digest& key) {
  KeyedShard::Removals removals;
  Stripe& stripe = stripe_of(key);
  const std::lock_guard lock(stripe.mutex);
  const Slot slot = stripe.shard.find(key.prefix(), same(key)).slot;
  if (slot == kNoSlot) return false;
  stripe.shard.remove(slot, Reason::kDeleted, removals);
  return true;
}

bool Cache::pin(const Digest& key, Nanoseconds now) {
  Stripe& stripe = stripe_of(key);
  const std::lock_guard lock(stripe.mutex);
  const Slot slot = stripe.shard.find(key.prefix(), same(key)).slot;
  if (slot == kNoSlot || stripe.shard.expired(slot, now)) return false;
  stripe.shard.pin(slot);
  return true;
}

bool Cache::unpin(const Digest& key) {
  Stripe& stripe = stripe_of(key);
  const std::lock_guard lock(stripe.mutex);
  const Slot slot = stripe.shard.find(key.prefix(), same(key)).slot;
  return slot != kNoSlot && stripe.shard.unpin(slot);
}

void Cache::expire(Nanoseconds now) {
  for (const auto& stripe : stripes_) {
    KeyedShard::Removals removals;
    const std::lock_guard lock(stripe->mutex);
    stripe->shard.expire(now, removals);
  }
}

void Cache::clear() {
  for (const auto& stripe : stripes_) {
    KeyedShard::Removals removals;
    const std::lock_guard lock(stripe->mutex);
    stripe->shard.clear(removals);
  }
}

void Cache::resize(Limits limits) {
  check(limits, stripes_.size());
  for (size_t i = 0; i < stripes_.size(); ++i) {
    KeyedShard::Removals removals;
    const std::lock_guard lock(stripes_[i]->mutex);
    stripes_[i]->shard.resize(share(limits, stripes_.size(), i), removals);
  }
}

Stats Cache::stats() const {
  Stats all;
  for (const auto& stripe : stripes_) {
    const std::lock_guard lock(stripe->mutex);
    all += stripe->shard.stats();
  }
  return all;
}

}  // namespace blatam
