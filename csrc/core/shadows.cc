#include "core/shadows.h"

#include <algorithm>
#include <bit>

namespace blatam {
namespace {

// Insertions between two lessons: a quarter of the capacity, and no fewer than these.
constexpr uint64_t kFewestToLearn = 64;
// Capacities of insertions after which old cases count half as much.
constexpr uint64_t kFade = 30;
#ifndef DENS
#define DENS 1
#endif
// Units that `loop` spares.
constexpr size_t kSpared = 2;

}  // namespace

void rank_unit(AgedRanks& ranks, Order order, const LifeTable& lives, const Calendar& calendar,
               size_t index, uint64_t now, size_t capacity, bool blocks) noexcept {
  constexpr double kClass = 1e17;  // more than any moment
  const Calendar::Unit& unit = calendar[index];
  double* const rank = ranks.data() + AgedLists<1>::list_of(unit.id, 0);
  const auto start = static_cast<double>(unit.start);
  const size_t faded = blocks ? 0 : halvings(unit.start, now, capacity);
  for (size_t use_class = 0; use_class < kUseClasses; ++use_class) {
    const double frequency = kClass * static_cast<double>(use_class - std::min(use_class, faded));
    switch (order) {
      case Order::kLru:
        rank[use_class] = start;
        break;
      case Order::kLfu:
        rank[use_class] = frequency + start;
        break;
      case Order::kLoop:
        rank[use_class] = (index < kSpared ? kClass * kUseClasses + start : frequency - start);
        break;
      case Order::kDensity:
        rank[use_class] =
            lives.worth(blocks ? use_class : std::min(use_class - std::min(use_class, DENS*faded), LifeTable::kUseGroups - 1),
                        calendar.age(index, now));
        break;
    }
  }
}

void rank_all(AgedRanks& ranks, Order order, const LifeTable& lives, const Calendar& calendar,
              uint64_t now, size_t capacity, bool blocks) noexcept {
  for (size_t index = 0; index < calendar.size(); ++index) {
    rank_unit(ranks, order, lives, calendar, index, now, capacity, blocks);
  }
}

void rank_day(AgedRanks& ranks, Order order, const LifeTable& lives, const Calendar& calendar,
              uint64_t now, size_t capacity, bool blocks, bool all) noexcept {
  if (all && order != Order::kLru) {
    rank_all(ranks, order, lives, calendar, now, capacity, blocks);
    return;
  }
  rank_unit(ranks, order, lives, calendar, 0, now, capacity, blocks);
  if (order == Order::kLoop && calendar.size() > kSpared) {
    rank_unit(ranks, order, lives, calendar, kSpared, now, capacity, blocks);
  }
}

void Shadows::grow(size_t slots) {
  const size_t nodes = kMemory * std::min(slots, most_) + kMemory;
  if (nodes <= nodes_.size()) return;
  table_.reserve(nodes, [&](Slot id) { return nodes_[id].hash; });
  if (compete_) lists_.grow(nodes);
  queue_links_.grow(nodes);
  nodes_.resize(nodes);
}

void Shadows::set_capacity(size_t entries, const Calendar& calendar) noexcept {
  bits_ = static_cast<unsigned>(std::bit_width((entries - 1) / most_));
  mask_ = (uint64_t{1} << bits_) - 1;
  capacity_ = std::max<size_t>(1, entries >> bits_);
  optimum_.set_capacity(capacity_);
  if (!compete_) return;
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    while (held_[lane] > lane_capacity(lane)) evict(lane, calendar);
  }
}

uint8_t Shadows::use(uint64_t hash, float cost, bool hit, bool last, uint64_t now,
                     const Calendar& calendar) noexcept {
  Slot id = find(hash);
  const bool first = id == kNoSlot;
  if (first) {
    id = take(hash, now, calendar);
    if (id == kNoSlot) return 1;  // every node is held: nothing can be learned from this one
  }
  Node& node = nodes_[id];
  if (cost >= 0) node.cost = cost;
  const double worth = node.cost;
  const size_t old_class = first ? 0 : class_of(node.uses);
  const Calendar::Unit& today = calendar.today();
  bool moves = true;
  if (first) {
    pattern_.first();
  } else {
    const auto age = static_cast<uint32_t>(now) - node.time;
    lives_.used(LifeTable::group_of(node.uses, node.last), age);
    pattern_.again(age);
    uint32_t& living_then = living(node, now, calendar);
    living_then -= living_then != 0;
    moves = now - age < today.start;
  }
  if (compete_ && !first) node.uses >>= std::min<size_t>(7, halvings(now - (static_cast<uint32_t>(now) - node.time), now, capacity_ << bits_));
  if (node.uses < kMostUses) ++node.uses;
  const size_t use_class = class_of(node.uses);
  moves = moves || use_class != old_class;
  node.time = static_cast<uint32_t>(now);
  node.last = last;
  ++living_[today.id][LifeTable::group_of(node.uses, last)];
  inserted_ += !hit;
  ++tally_.requests;
  tally_.asked += worth;
  tally_.real += hit ? worth : 0;
  if (optimum_.sees(hash >> (kUnseenBits + bits_))) {
    node.optimum = optimum_.use(node.optimum, first, worth);
  }

  if (!first && node.in == 0) queue_links_.unlink(queue_, id);
  if (!compete_) {
    node.in = kReal;
    return node.uses;
  }
  const auto list = AgedLists<kLanes>::list_of(today.id, use_class);
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    const bool held = node.in >> lane & 1;
    if (held) {
      (lane < kOrders ? tally_.hits[lane] : tally_.larger) += worth;
      if (!moves) continue;
      lists_.unlink(lane, id);
    } else {
      if (hit && lane < kOrders) tally_.only_real[lane] += worth;
      if (held_[lane] == lane_capacity(lane)) evict(lane, calendar);
      ++held_[lane];
      if (lane < kOrders) apart_[lane] -= node.in / kReal;
      node.in |= static_cast<uint8_t>(1 << lane);
    }
    lists_.push_newest(lane, list, id, calendar);
  }
  set_real(node, true);
  return node.uses;
}

void Shadows::left(uint64_t hash) noexcept {
  const Slot id = find(hash);
  if (id == kNoSlot) return;
  set_real(nodes_[id], false);
  if (nodes_[id].in == 0) queue_links_.push_newest(queue_, id);
}

void Shadows::remove(uint64_t hash, uint64_t now, const Calendar& calendar) noexcept {
  const Slot id = find(hash);
  if (id == kNoSlot) return;
  Node& node = nodes_[id];
  if (node.in == 0) queue_links_.unlink(queue_, id);
  set_real(node, false);
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    if ((node.in >> lane & 1) == 0) continue;
    lists_.unlink(lane, id);
    --held_[lane];
  }
  uint32_t& living_then = living(node, now, calendar);
  living_then -= living_then != 0;
  release(id);
}

void Shadows::merge(Calendar::UnitId kept, Calendar::UnitId gone) noexcept {
  for (size_t group = 0; group < LifeTable::kGroups; ++group) {
    living_[kept][group] += living_[gone][group];
    living_[gone][group] = 0;
  }
  if (!compete_) return;
  for (unsigned lane = 0; lane < kLanes; ++lane) lists_.merge(lane, kept, gone);
}

void Shadows::rank(const Calendar& calendar, uint64_t now) noexcept {
  if (!compete_) return;
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    const Order order = lane < kOrders ? static_cast<Order>(lane) : Order::kDensity;
    rank_all(lists_.ranks(lane), order, lives_, calendar, now, capacity_ << bits_, false);
  }
}

void Shadows::rank_day(const Calendar& calendar, uint64_t now, bool all) noexcept {
  if (!compete_) return;
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    const Order order = lane < kOrders ? static_cast<Order>(lane) : Order::kDensity;
    blatam::rank_day(lists_.ranks(lane), order, lives_, calendar, now, capacity_ << bits_, false, all);
  }
}

bool Shadows::learn(const Calendar& calendar, uint64_t now) noexcept {
  const uint64_t capacity = capacity_;
  if (inserted_ < capacity) return false;
  if (inserted_ - learned_at_ < std::max(kFewestToLearn, capacity / 4)) return false;
  learned_at_ = inserted_;
  learn_now(calendar, now);
  if (inserted_ - faded_at_ >= kFade * capacity) {
    faded_at_ = inserted_;
    lives_.fade();
  }
  return true;
}

void Shadows::learn_now(const Calendar& calendar, uint64_t now) noexcept {
  LifeTable::Table<double> living{};
  for (size_t index = 0; index < calendar.size(); ++index) {
    const uint64_t age = calendar.age(index, now);
    const size_t bin = LifeTable::bin_of(static_cast<uint32_t>(std::min<uint64_t>(age, UINT32_MAX)));
    for (size_t group = 0; group < LifeTable::kGroups; ++group) {
      living[group][bin] += living_[calendar[index].id][group];
    }
  }
  lives_.learn(living);
}

void Shadows::restore(const LifeTable::Table<double>& hits,
                      const LifeTable::Table<double>& forgotten, const Calendar& calendar,
                      uint64_t now) noexcept {
  lives_.restore(hits, forgotten);
  learn_now(calendar, now);
  rank(calendar, now);
}

void Shadows::stop_competing() noexcept {
  if (!compete_) return;
  compete_ = false;
  for (Slot id = 0; id < fresh_; ++id) {
    uint8_t& in = nodes_[id].in;
    const bool held = in != 0;
    in &= kReal;
    if (held && in == 0) queue_links_.push_newest(queue_, id);
  }
  apart_.fill(0);
}

size_t Shadows::memory_bytes() const noexcept {
  return nodes_.capacity() * sizeof(Node) + table_.memory_bytes() + lists_.memory_bytes() +
         queue_links_.memory_bytes() + sizeof *this;
}

Slot Shadows::take(uint64_t hash, uint64_t now, const Calendar& calendar) noexcept {
  if (free_ == kNoSlot && fresh_ == nodes_.size()) {
    if (queue_.empty()) return kNoSlot;
    forget(queue_.oldest, now, calendar);
  }
  Slot id = free_;
  if (id == kNoSlot) {
    id = fresh_++;
  } else {
    free_ = static_cast<Slot>(nodes_[id].hash);
  }
  nodes_[id] = {.hash = hash};
  table_.insert(hash, id);
  return id;
}

void Shadows::forget(Slot id, uint64_t now, const Calendar& calendar) noexcept {
  Node& node = nodes_[id];
  lives_.forgotten(LifeTable::group_of(node.uses, node.last),
                   static_cast<uint32_t>(now) - node.time);
  uint32_t& living_then = living(node, now, calendar);
  living_then -= living_then != 0;
  queue_links_.unlink(queue_, id);
  release(id);
}

void Shadows::release(Slot id) noexcept {
  Node& node = nodes_[id];
  table_.erase(node.hash, id);
  node.hash = free_;
  node.uses = 0;
  node.in = 0;
  free_ = id;
}

void Shadows::evict(unsigned lane, const Calendar& calendar) noexcept {
  const Slot id = lists_.coldest(lane, calendar);
  lists_.unlink(lane, id);
  --held_[lane];
  Node& node = nodes_[id];
  node.in &= static_cast<uint8_t>(~(1 << lane));
  if (lane < kOrders) apart_[lane] += node.in / kReal;
  if (node.in == 0) queue_links_.push_newest(queue_, id);
}

void Shadows::set_real(Node& node, bool real) noexcept {
  if ((node.in / kReal != 0) == real) return;
  node.in ^= kReal;
  if (!compete_) return;
  for (unsigned lane = 0; lane < kOrders; ++lane) {
    if ((node.in >> lane & 1) == 0) apart_[lane] += real ? 1 : uint64_t{0} - 1;
  }
}

uint32_t& Shadows::living(const Node& node, uint64_t now, const Calendar& calendar) noexcept {
  const uint32_t age = static_cast<uint32_t>(now) - node.time;
  const size_t index = calendar.find(now - std::min<uint64_t>(age, now));
  return living_[calendar[index].id][LifeTable::group_of(node.uses, node.last)];
}

}  // namespace blatam
