#include "core/prefix_index.h"

#include <algorithm>
#include <new>

namespace blatam {
namespace {

// More uses are no more a reason to keep a block.
constexpr uint32_t kMostUses = 255;

}  // namespace

PrefixIndex::PrefixIndex(uint64_t capacity_bytes, std::string_view policy)
    : capacity_bytes_(capacity_bytes), policy_name_(policy), policy_(new_policy()) {}

// What learns sees every block: beside its payload a block's 288 bytes of history are nothing, and
// what is seen then does not depend on names, so that the simulator sees the same.
std::unique_ptr<Policy> PrefixIndex::new_policy() const {
  std::unique_ptr<Policy> policy = make_policy(policy_name_, {.shadows = size_t{1} << 20});
  policy->set_capacity_bytes(capacity_bytes_);
  return policy;
}

void PrefixIndex::find(std::span<const Digest> names, std::vector<Slot>& slots) const {
  // Far enough ahead for a bucket to arrive before it is read.
  constexpr size_t kAhead = 8;
  for (size_t i = 0; i < std::min(kAhead, names.size()); ++i) {
    if (table_.room() != 0) table_.prefetch(names[i].prefix());
  }
  for (size_t i = 0; i < names.size(); ++i) {
    if (i + kAhead < names.size() && table_.room() != 0) {
      table_.prefetch(names[i + kAhead].prefix());
    }
    const Slot slot = slot_of(names[i]);
    if (slot == kNoSlot) return;
    slots.push_back(slot);
  }
}

void PrefixIndex::use(const Digest& last, std::span<const Digest> names) {
  settle();
  used_.reserve(names.size());
  begin_request(last);
  for (size_t i = names.size(); i-- > 0;) {
    const Slot slot = slot_of(names[i]);
    if (slot != kNoSlot) used_.push_back(slot);
  }
}

size_t PrefixIndex::add(const Digest& last, const Digest& parent, bool root,
                        std::span<const Digest> names, std::span<const uint64_t> weights,
                        bool planned, std::vector<Slot>& slots, std::vector<Slot>& evicted) {
  slots.clear();
  const Slot above = root ? kNoSlot : place_of(parent);
  if (names.empty() || (!root && above == kNoSlot)) return 0;
  reserve(names.size());
  slots.assign(names.size(), kNoSlot);
  evicted.reserve(evicted.size() + table_.size() + names.size());
  const uint64_t list = root ? parent.prefix() : 0;
  if (root) roots_.try_emplace(list, kNoSlot);
  if (last.prefix() != request_) {
    settle();
    begin_request(last);
  }

  // The leading ones that are here; behind the first that is missing nothing can be.
  size_t here = 0;
  while (here < names.size() && (slots[here] = place_of(names[here])) != kNoSlot) ++here;
  size_t old = here;
  if (!planned) {
    for (old = 0; old < here && !nodes_[slots[old]].planned;) ++old;
    for (size_t i = old; i < here; ++i) set_filled(slots[i], weights[i]);
  }
  if (here < names.size()) tell_capacity(weights[here]);
  // Links go from the front, the policy hears of the end first.
  for (size_t i = here; i < names.size(); ++i) {
    slots[i] = insert(names[i], weights[i], i == 0 ? above : slots[i - 1], list);
    nodes_[slots[i]].planned = planned;
  }
  for (size_t i = names.size(); i-- > here;) {
    policy_->insert(slots[i], {.hash = names[i].prefix(), .size = weights[i], .cost = 1});
    if (!known_.empty()) repeat_uses(slots[i]);
    if (i + 1 < names.size()) policy_->link(slots[i], slots[i + 1]);
  }
  settle();
  const Slot before = here == 0 ? above : slots[here - 1];
  if (here < names.size() && before != kNoSlot) policy_->link(before, slots[here]);
  make_room(old, slots, evicted);
  return old;
}

Slot PrefixIndex::fill(const Digest& name, uint64_t weight, std::vector<Slot>& evicted) {
  const Slot slot = place_of(name);
  if (slot == kNoSlot || !nodes_[slot].planned) return kNoSlot;
  evicted.reserve(evicted.size() + table_.size());
  std::vector<Slot> own(1, slot);
  settle();
  set_filled(slot, weight);
  make_room(0, own, evicted);
  return own.empty() ? kNoSlot : slot;
}

void PrefixIndex::abandon(std::span<const Digest> names) noexcept {
  settle();
  for (size_t i = names.size(); i-- > 0;) {
    const Slot slot = place_of(names[i]);
    if (slot != kNoSlot && nodes_[slot].planned && nodes_[slot].first == kNoSlot) drop(slot);
  }
}

bool PrefixIndex::pin(const Digest& name) {
  const Slot slot = slot_of(name);
  if (slot == kNoSlot) return false;
  pins_.pin(slot);
  ++nodes_[slot].held;
  return true;
}

bool PrefixIndex::unpin(const Digest& name) noexcept {
  const Slot slot = slot_of(name);
  if (slot == kNoSlot || nodes_[slot].held == 0) return false;
  --nodes_[slot].held;
  pins_.unpin(slot);
  return true;
}

Slot PrefixIndex::remove(const Digest& name) noexcept {
  const Slot slot = slot_of(name);
  if (slot == kNoSlot) return kNoSlot;
  settle();
  // What is planned to continue it goes with it: behind a plan there are only plans.
  for (Slot leaf = nodes_[slot].first; leaf != kNoSlot; leaf = nodes_[slot].first) {
    while (nodes_[leaf].first != kNoSlot) leaf = nodes_[leaf].first;
    if (!nodes_[leaf].planned) return kNoSlot;
    drop(leaf);
  }
  drop(slot);
  return slot;
}

void PrefixIndex::followers(const Digest& parent, bool root, size_t most,
                            std::vector<Slot>& slots) const {
  Slot slot = kNoSlot;
  if (root) {
    const auto found = roots_.find(parent.prefix());
    if (found != roots_.end()) slot = found->second;
  } else if (const Slot above = slot_of(parent); above != kNoSlot) {
    slot = nodes_[above].first;
  }
  for (; slot != kNoSlot && most != 0; slot = nodes_[slot].next) {
    if (nodes_[slot].planned) continue;
    slots.push_back(slot);
    --most;
  }
}

void PrefixIndex::resize(uint64_t capacity_bytes, std::vector<Slot>& evicted) {
  evicted.reserve(evicted.size() + table_.size());
  settle();
  capacity_bytes_ = capacity_bytes;
  policy_->set_capacity_bytes(capacity_bytes);
  std::vector<Slot> none;
  make_room(0, none, evicted);
}

size_t PrefixIndex::memory_bytes() const noexcept {
  return table_.memory_bytes() + policy_->memory_bytes() + nodes_.capacity() * sizeof(Node) +
         slots_ * sizeof(uint32_t);
}

Slot PrefixIndex::slot_of(const Digest& name) const noexcept {
  const Slot slot = place_of(name);
  return slot == kNoSlot || nodes_[slot].planned ? kNoSlot : slot;
}

void PrefixIndex::set_filled(Slot slot, uint64_t weight) noexcept {
  Node& node = nodes_[slot];
  bytes_ += weight - node.weight;
  node.weight = weight;
  node.planned = false;
}

void PrefixIndex::drop(Slot slot) noexcept {
  policy_->remove(slot);
  release(slot);
}

Slot PrefixIndex::place_of(const Digest& name) const noexcept {
  return table_.find(name.prefix(), [&](Slot slot) { return nodes_[slot].name == name; });
}

Slot& PrefixIndex::list_of(const Node& node) noexcept {
  return node.parent == kNoSlot ? roots_.find(node.root)->second : nodes_[node.parent].first;
}

void PrefixIndex::begin_request(const Digest& last) {
  policy_->begin_request(last.prefix());
  request_ = last.prefix();
  ++requests_;
}

// Slots are only released behind this, so those of used_ are still what they were.
void PrefixIndex::settle() noexcept {
  for (const Slot slot : used_) {
    Node& node = nodes_[slot];
    if (node.uses < kMostUses) ++node.uses;
    node.used_at = requests_;
    policy_->hit(slot);
  }
  used_.clear();
}

// Of a block that came back, beyond the one that it came with.
void PrefixIndex::repeat_uses(Slot slot) noexcept {
  const auto found = known_.find(nodes_[slot].name.prefix());
  if (found == known_.end()) return;
  for (uint32_t use = 1; use < found->second; ++use) policy_->hit(slot);
  nodes_[slot].uses = found->second;
  known_.erase(found);
}

// Everything that allocates, so that what follows cannot fail.
void PrefixIndex::reserve(size_t more) {
  const size_t wanted = table_.size() + more;
  if (wanted <= slots_) return;
  size_t slots = std::max<size_t>({16, slots_ * 2, wanted});
  if (slots >= kNoSlot) throw std::bad_alloc();
  nodes_.reserve(slots);
  table_.reserve(slots, [&](Slot slot) { return nodes_[slot].name.prefix(); });
  policy_->grow(slots);
  pins_.reserve(slots);
  slots_ = slots;
}

// As many blocks as fit if all weigh what they do on average.
void PrefixIndex::tell_capacity(uint64_t weight) noexcept {
  const double mean = bytes_ == 0 ? static_cast<double>(weight)
                                  : static_cast<double>(bytes_) / static_cast<double>(entries());
  const auto capacity = static_cast<uint64_t>(static_cast<double>(capacity_bytes_) / mean);
  if (capacity == told_) return;
  told_ = capacity;
  policy_->set_capacity(std::max<uint64_t>(capacity, 1));
}

Slot PrefixIndex::insert(const Digest& name, uint64_t weight, Slot parent, uint64_t root) noexcept {
  Slot slot = free_;
  if (slot != kNoSlot) {
    free_ = nodes_[slot].next;
  } else {
    slot = static_cast<Slot>(nodes_.size());
    nodes_.emplace_back();
  }
  Node& node = nodes_[slot];
  node = {.name = name,
          .weight = weight,
          .root = root,
          .parent = parent,
          .uses = 1,
          .used_at = requests_};
  Slot& list = list_of(node);
  if (list != kNoSlot) nodes_[list].previous = slot;
  node.next = list;
  list = slot;
  if (parent != kNoSlot) pins_.pin(parent);  // reserve() made room
  table_.insert(name.prefix(), slot);
  bytes_ += weight;
  return slot;
}

// What was just inserted ends with a leaf that nobody pinned, so there is a victim while there is
// too much. Of what is new, behind the first `old` slots, the end leaves first, and `slots` with
// it.
void PrefixIndex::make_room(size_t old, std::vector<Slot>& slots,
                            std::vector<Slot>& evicted) noexcept {
  while (bytes_ > capacity_bytes_) {
    const Slot slot = policy_->evict(pins_, nullptr);
    if (slot == kNoSlot) return;
    const bool planned = nodes_[slot].planned;
    release(slot);
    if (!slots.empty() && slots.back() == slot) {
      slots.pop_back();
      if (slots.size() >= old) continue;
    }
    if (!planned) evicted.push_back(slot);  // reserved
  }
}

// The slot has left its policy; the rest follows.
void PrefixIndex::release(Slot slot) noexcept {
  Node& node = nodes_[slot];
  if (node.next != kNoSlot) nodes_[node.next].previous = node.previous;
  if (node.previous != kNoSlot) {
    nodes_[node.previous].next = node.next;
  } else {
    list_of(node) = node.next;
  }
  if (node.parent != kNoSlot) pins_.unpin(node.parent);
  pins_.forget(slot);
  table_.erase(node.name.prefix(), slot);
  bytes_ -= node.weight;
  node.uses = 0;
  node.planned = false;
  node.next = free_;
  free_ = slot;
}

}  // namespace blatam
