#include "core/shadows.h"

#include <algorithm>
#include <bit>

namespace blatam {
namespace {

// Misses between two lessons: a quarter of the capacity, and no fewer than these.
constexpr uint64_t kFewestToLearn = 64;
// After as many capacities of misses old cases count half as much.
constexpr uint64_t kFade = 30;

}  // namespace

void Shadows::grow(size_t slots) {
  const size_t nodes = kNodes * (std::min(slots, most_) + 1);
  if (nodes <= nodes_.size()) return;
  table_.reserve(nodes, [&](Slot id) { return nodes_[id].hash; });
  if (compete_) lists_.grow(nodes);
  queue_links_.grow(nodes);
  nodes_.resize(nodes);
}

void Shadows::set_capacity(size_t entries) noexcept {
  entries = std::min(entries, size_t{kNoSlot});
  const auto bits_for = [&](size_t capacity) {
    return static_cast<unsigned>(std::bit_width((capacity - 1) / most_));
  };
  // A capacity that goes up and down a little, as one of bytes does, keeps its sample.
  const unsigned bits =
      std::max(bits_for(entries), std::min(bits_, bits_for(entries + entries / 4)));
  const bool fewer = bits > bits_;
  bits_ = bits;
  mask_ = (uint64_t{1} << bits) - 1;
  capacity_ = std::max<size_t>(1, entries >> bits);
  if (fewer) drop_unseen();
  fit_room();
}

void Shadows::set_capacity_bytes(uint64_t bytes) noexcept {
  capacity_bytes_ = bytes;
  // Entries are weighed, or counted, from now on.
  held_.fill(0);
  for (Slot id = 0; id < fresh_; ++id) {
    for (unsigned lane = 0; lane < kLanes; ++lane) {
      if (in(nodes_[id], lane)) held_[lane] += weight(nodes_[id]);
    }
  }
  fit_room();
}

void Shadows::fit_room() noexcept {
  room_ = capacity_bytes_ == 0 ? capacity_ : std::max<uint64_t>(1, capacity_bytes_ >> bits_);
  optimum_.set_capacity(capacity_, room_);
  if (!compete_) return;
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    while (held_[lane] > room_of(lane)) evict(lane);
  }
}

uint8_t Shadows::use(uint64_t hash, const Use& use) noexcept {
  Slot id = find(hash);
  const bool first = id == kNoSlot;
  if (first) {
    id = take(hash);
    if (id == kNoSlot) return 1;  // all are held: there is no room to learn from this one
    pattern_.first();
  }
  Node& node = nodes_[id];
  bool moves = true;
  if (!first) {
    const uint32_t age = calendar_.age_of(node.used);
    lives_.used(group_of(node), age);
    pattern_.again(age);
    stop_living(node);
    if (node.in == 0) queue_links_.unlink(queue_, id);
    const bool next_class = node.uses < kMostUses && std::has_single_bit(node.uses + 1u);
    moves = next_class || use.price != node.price || !calendar_.is_of_today(age);
  }
  node.uses = static_cast<uint8_t>(std::min<int>(node.uses + 1, kMostUses));
  node.used = calendar_.moment();
  node.last = use.last;
  node.price = use.price;
  if (use.cost >= 0) node.cost = use.cost;
  if (use.size != 0) resize(node, use.size);
  ++living_[calendar_.today().id][group_of(node)];
  missed_ += use.hit ? 0 : 1;
  const double worth = node.cost;
  ++tally_.requests;
  tally_.asked += worth;
  tally_.real += use.hit ? worth : 0;
  if (optimum_.sees(hash >> kUnseenBits >> bits_)) {
    node.optimum = optimum_.use(node.optimum, first, worth, weight(node));
  }
  if (!compete_) {
    node.in = kReal;
    return node.uses;
  }

  const size_t list_class = class_of(node.uses);
  const ListId list = list_of(calendar_.today().id, list_class);
  const ListId priced = list_of(calendar_.today().id, list_class, prices_.shelf_of(node.price));
  if (moves) {
    for (unsigned lane = 0; lane < kLanes; ++lane) {
      if (in(node, lane)) lists_.prefetch_beside(lane, id);
    }
  }
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    if (in(node, lane)) {
      (lane == kLarger ? tally_.larger : tally_.hits[lane]) += worth;
      if (!moves) continue;
      lists_.unlink(lane, id);
    } else {
      if (use.hit && lane != kLarger) tally_.only_real[lane] += worth;
      if (weight(node) > room_of(lane)) continue;  // too large for the sample
      while (held_[lane] + weight(node) > room_of(lane)) evict(lane);
      held_[lane] += weight(node);
      if (lane != kLarger) apart_[lane] -= node.in / kReal;
      node.in |= static_cast<uint8_t>(1 << lane);
    }
    lists_.push_newest(lane, weighs(lane) ? priced : list, id);
    while (held_[lane] > room_of(lane)) evict(lane);  // it has grown
  }
  set_real(node, true);
  return node.uses;
}

void Shadows::left(uint64_t hash) noexcept {
  const Slot id = find(hash);
  if (id == kNoSlot || nodes_[id].in < kReal) return;
  set_real(nodes_[id], false);
  if (nodes_[id].in == 0) queue_links_.push_newest(queue_, id);
}

void Shadows::remove(uint64_t hash) noexcept {
  const Slot id = find(hash);
  if (id != kNoSlot) take_out(id);
}

void Shadows::merge(Calendar::UnitId kept, Calendar::UnitId gone) noexcept {
  for (size_t group = 0; group < LifeTable::kGroups; ++group) {
    living_[kept][group] += living_[gone][group];
    living_[gone][group] = 0;
  }
  if (!compete_) return;
  for (unsigned lane = 0; lane < kLanes; ++lane) lists_.merge(lane, kept, gone);
}

void Shadows::rank_day(bool all) noexcept {
  if (!compete_) return;
  for (unsigned lane = 0; lane < kOrders; ++lane) {
    const Order order = order_of(lane);
    if (all && order == Order::kDensity) {
      rank_all(lists_.ranks(lane), order, lives_, calendar_, Classes::kUses);
    } else {
      blatam::rank_day(lists_.ranks(lane), order, lives_, calendar_, Classes::kUses);
    }
  }
  lists_.ranks(kLarger) = lists_.ranks(kDensity);
}

bool Shadows::learn() noexcept {
  if (missed_ < capacity_) return false;
  if (missed_ - learned_at_ < std::max<uint64_t>(kFewestToLearn, capacity_ / 4)) return false;
  learned_at_ = missed_;
  learn_now();
  if (missed_ - faded_at_ >= kFade * capacity_) {
    faded_at_ = missed_;
    lives_.fade();
  }
  return true;
}

void Shadows::learn_now() noexcept {
  LifeTable::Table living{};
  for (size_t index = 0; index < calendar_.size(); ++index) {
    const size_t bin = LifeTable::bin_of(calendar_.middle_age(index));
    for (size_t group = 0; group < LifeTable::kGroups; ++group) {
      living[group][bin] += living_[calendar_[index].id][group];
    }
  }
  lives_.learn(living);
  rank_day(true);
}

void Shadows::restore(const LifeTable::Cases& cases) noexcept {
  lives_.restore(cases);
  learn_now();
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
  held_.fill(0);
  apart_.fill(0);
}

size_t Shadows::memory_bytes() const noexcept {
  return nodes_.capacity() * sizeof(Node) + table_.memory_bytes() + lists_.memory_bytes() +
         queue_links_.memory_bytes() + sizeof *this;
}

// A node that no cache holds yet, or kNoSlot if all are held.
Slot Shadows::take(uint64_t hash) noexcept {
  while (table_.size() >= kNodes * (capacity_ + 1) && !queue_.empty()) forget(queue_.oldest);
  if (free_ == kNoSlot && fresh_ == nodes_.size()) {
    if (queue_.empty()) return kNoSlot;
    forget(queue_.oldest);
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

void Shadows::forget(Slot id) noexcept {
  lives_.forgotten(group_of(nodes_[id]), calendar_.age_of(nodes_[id].used));
  take_out(id);
}

void Shadows::take_out(Slot id) noexcept {
  Node& node = nodes_[id];
  if (node.in == 0) queue_links_.unlink(queue_, id);
  set_real(node, false);
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    if (!in(node, lane)) continue;
    lists_.unlink(lane, id);
    held_[lane] -= weight(node);
  }
  stop_living(node);
  table_.erase(node.hash, id);
  node = {.hash = free_};
  free_ = id;
}

void Shadows::evict(unsigned lane) noexcept {
  const Slot id = lists_.coldest(lane);
  lists_.unlink(lane, id);
  Node& node = nodes_[id];
  held_[lane] -= weight(node);
  node.in &= static_cast<uint8_t>(~(1 << lane));
  if (lane != kLarger) apart_[lane] += node.in / kReal;
  if (node.in == 0) queue_links_.push_newest(queue_, id);
  // The next to leave is on its way until another miss.
  const Slot next = lists_.guess(lane).next;
  if (next == kNoSlot) return;
  __builtin_prefetch(&nodes_[next], 1);
  lists_.prefetch(next);
}

void Shadows::resize(Node& node, uint32_t size) noexcept {
  const uint64_t before = weight(node);
  node.size = size;
  if (weight(node) == before) return;
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    if (in(node, lane)) held_[lane] += weight(node) - before;
  }
}

void Shadows::set_real(Node& node, bool real) noexcept {
  if ((node.in >= kReal) == real) return;
  node.in ^= kReal;
  if (!compete_) return;
  for (unsigned lane = 0; lane < kOrders; ++lane) {
    if (in(node, lane)) continue;
    if (real) {
      ++apart_[lane];
    } else {
      --apart_[lane];
    }
  }
}

void Shadows::stop_living(const Node& node) noexcept {
  const Calendar::Unit& unit = calendar_.unit_of(calendar_.age_of(node.used));
  uint32_t& living = living_[unit.id][group_of(node)];
  living -= living != 0 ? 1 : 0;  // beyond 2^32 requests the unit is a guess
}

// The sample has become smaller: forgets what is no more of it.
void Shadows::drop_unseen() noexcept {
  for (Slot id = 0; id < fresh_; ++id) {
    const bool free = nodes_[id].uses == 0;
    if (!free && !sees(nodes_[id].hash)) take_out(id);
  }
}

}  // namespace blatam
