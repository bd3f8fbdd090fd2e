// LIRS (Jiang and Zhang, SIGMETRICS 2002): what counts is not when an entry was used last, but how
// many others were used between its last two uses. Hot entries have short such distances and take
// nearly all the room; cold ones pass through a queue of a hundredth of it and leave from there.
//
// A stack holds hot, cold and evicted keys in order of last use, and always ends in a hot one. A
// cold or evicted key that is used while still in the stack had a shorter distance than that last
// hot entry, and takes its place. The keys of the evicted are the paper's non-resident blocks,
// which it leaves unbounded; here they are at most twice the entries, and the first to be evicted
// is the first to be forgotten. Best where LRU fails, on loops and scans.
//
// Keys in the stack or resident are nodes: an evicted one stays where it is, and loses its slot.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/slot_list.h"
#include "core/table.h"

namespace blatam {

class Lirs final : public Policy {
 public:
  void grow(size_t slots) override {
    if (slots <= node_of_.size()) return;
    const size_t ghosts = kGhosts * slots;
    table_.reserve(ghosts, [&](Id id) { return nodes_[id].hash; });
    stack_links_.grow(slots + ghosts);
    queue_links_.grow(slots + ghosts);
    nodes_.resize(slots + ghosts);
    node_of_.resize(slots);
  }
  void set_capacity(size_t entries) noexcept override { capacity_ = entries; }

  void insert(Slot slot, const Item& item) noexcept override {
    Id id = find_ghost(item.hash);
    const bool returns = id != kNoSlot;
    if (returns) {
      leave_ghosts(id);
      stack_links_.unlink(stack_, id);
    } else {
      id = take_node();
    }
    node_of_[slot] = id;
    nodes_[id] = {item.hash, slot, Kind::kCold, true};
    stack_links_.push_newest(stack_, id);
    ++cold_;
    if (returns || hot_ < hot_most()) {
      heat(id);
    } else {
      queue_links_.push_newest(queue_, id);
    }
    prune();
  }

  void hit(Slot slot) noexcept override {
    const Id id = node_of_[slot];
    Node& node = nodes_[id];
    if (id == stack_.newest && node.kind == Kind::kHot) return;
    if (node.kind == Kind::kCold) queue_links_.unlink(queue_, id);
    if (node.stacked) stack_links_.unlink(stack_, id);
    stack_links_.push_newest(stack_, id);
    if (node.kind == Kind::kCold) {
      if (node.stacked) {
        heat(id);
      } else {
        queue_links_.push_newest(queue_, id);
        node.stacked = true;
      }
    }
    prune();
  }

  [[nodiscard]] Slot evict(const Pins& pins, const Item*) noexcept override {
    Id id = oldest_unpinned(queue_links_, queue_, pins);
    if (id == kNoSlot) {  // all cold ones are pinned, or there are none: entries were deleted
      id = oldest_unpinned_hot(pins);
      if (id == kNoSlot) return kNoSlot;
      const Slot slot = nodes_[id].slot;
      remove(slot);
      return slot;
    }
    const Slot slot = nodes_[id].slot;
    const size_t most = kGhosts * std::min(capacity(), node_of_.size());
    if (!nodes_[id].stacked) {
      remove(slot);
    } else {
      queue_links_.unlink(queue_, id);
      --cold_;
      if (const Id again = find_ghost(nodes_[id].hash); again != kNoSlot) forget_ghost(again);
      while (table_.size() >= most) forget_ghost(ghosts_.oldest);
      nodes_[id].kind = Kind::kGhost;
      queue_links_.push_newest(ghosts_, id);
      table_.insert(nodes_[id].hash, id);
    }
    return slot;
  }

  [[nodiscard]] Guess next_victims() const noexcept override {
    if (queue_.empty()) return {};
    const Id after = queue_links_.newer(queue_.oldest);
    return {nodes_[queue_.oldest].slot, after == kNoSlot ? kNoSlot : nodes_[after].slot};
  }

  void remove(Slot slot) noexcept override {
    const Id id = node_of_[slot];
    if (nodes_[id].stacked) stack_links_.unlink(stack_, id);
    if (nodes_[id].kind == Kind::kHot) {
      --hot_;
    } else {
      queue_links_.unlink(queue_, id);
      --cold_;
    }
    release(id);
    prune();
  }

  [[nodiscard]] size_t memory_bytes() const noexcept override {
    return stack_links_.memory_bytes() + queue_links_.memory_bytes() + table_.memory_bytes() +
           nodes_.capacity() * sizeof(Node) + node_of_.capacity() * sizeof(Id);
  }

 private:
  using Id = Slot;
  static constexpr size_t kGhosts = 2;  // for each entry
  enum class Kind : uint8_t { kHot, kCold, kGhost };
  struct Node {
    uint64_t hash = 0;
    Slot slot = kNoSlot;  // of a free node: the next free one
    Kind kind = Kind::kCold;
    bool stacked = false;
  };

  // Where bytes are the limit, more may be here than there were when it was told.
  [[nodiscard]] size_t capacity() const noexcept {
    return capacity_ == kUnbounded ? hot_ + cold_ : std::max(capacity_, hot_ + cold_);
  }
  [[nodiscard]] size_t hot_most() const noexcept {
    return capacity() - std::max<size_t>(1, capacity() / 100);
  }

  [[nodiscard]] Id find_ghost(uint64_t hash) const noexcept {
    return table_.find(hash, [&](Id id) { return nodes_[id].hash == hash; });
  }
  void leave_ghosts(Id id) noexcept {
    queue_links_.unlink(ghosts_, id);
    table_.erase(nodes_[id].hash, id);
  }
  void forget_ghost(Id id) noexcept {
    leave_ghosts(id);
    stack_links_.unlink(stack_, id);
    release(id);
  }

  // Requires it to be on top of the stack, and out of the queue. Where that is one hot entry too
  // many, the last of the stack turns cold: the newest in the queue, and no longer in the stack.
  void heat(Id id) noexcept {
    nodes_[id].kind = Kind::kHot;
    --cold_;
    ++hot_;
    while (hot_ > hot_most()) {
      prune();
      const Id last = stack_.oldest;
      stack_links_.unlink(stack_, last);
      nodes_[last].kind = Kind::kCold;
      nodes_[last].stacked = false;
      queue_links_.push_newest(queue_, last);
      --hot_;
      ++cold_;
    }
  }

  // What lies below the last hot entry has a longer distance than all hot ones: its place in the
  // stack means nothing any more.
  void prune() noexcept {
    for (;;) {
      const Id last = stack_.oldest;
      if (last == kNoSlot || nodes_[last].kind == Kind::kHot) return;
      if (nodes_[last].kind == Kind::kGhost) {
        forget_ghost(last);
      } else {
        stack_links_.unlink(stack_, last);
        nodes_[last].stacked = false;
      }
    }
  }

  [[nodiscard]] Id oldest_unpinned(const SlotLinks& links, const SlotList& list,
                                   const Pins& pins) const noexcept {
    Id id = list.oldest;
    while (id != kNoSlot && pins.holds(nodes_[id].slot)) id = links.newer(id);
    return id;
  }
  [[nodiscard]] Id oldest_unpinned_hot(const Pins& pins) const noexcept {
    Id id = stack_.oldest;
    while (id != kNoSlot && (nodes_[id].kind != Kind::kHot || pins.holds(nodes_[id].slot))) {
      id = stack_links_.newer(id);
    }
    return id;
  }

  [[nodiscard]] Id take_node() noexcept {
    if (free_ == kNoSlot) return fresh_++;
    const Id id = free_;
    free_ = nodes_[id].slot;
    return id;
  }
  void release(Id id) noexcept {
    nodes_[id].slot = free_;
    free_ = id;
  }

  SlotLinks stack_links_;
  SlotLinks queue_links_;  // of the queue and of the ghosts
  SlotList stack_;
  SlotList queue_;   // cold entries, the next to leave first
  SlotList ghosts_;  // the first evicted first
  std::vector<Node> nodes_;
  std::vector<Id> node_of_;  // of a slot
  Table table_;              // of ghosts
  size_t hot_ = 0;
  size_t cold_ = 0;
  size_t capacity_ = kUnbounded;
  Id fresh_ = 0;  // nodes from here on were never used
  Id free_ = kNoSlot;
};

}  // namespace blatam
