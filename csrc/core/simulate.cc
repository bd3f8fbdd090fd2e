#include "core/simulate.h"

#include <algorithm>
#include <stdexcept>

#include "core/bit_tree.h"

namespace blatam {
namespace {

constexpr uint32_t kNever = 0xFFFFFFFF;

std::vector<uint32_t> next_uses(const Trace& trace) {
  std::vector<uint32_t> next(trace.requests());
  std::vector<uint32_t> soonest(trace.unique(), kNever);
  for (size_t at = next.size(); at-- > 0;) {
    const Object object = trace.objects()[at];
    next[at] = soonest[object];
    soonest[object] = static_cast<uint32_t>(at);
  }
  return next;
}

}  // namespace

// One policy with one capacity. Stretches and prompts come in order.
class Replay::Contender {
 public:
  Contender(const Trace& trace, uint64_t capacity)
      : trace_(trace), sized_(trace.kind() == Trace::Kind::kSizedObjects), capacity_(capacity) {}
  virtual ~Contender() = default;

  // Requests [begin, end) of objects.
  virtual void replay(size_t begin, size_t end) = 0;
  // Blocks [begin, end) are one prompt.
  virtual void replay_prompt(size_t begin, size_t end) = 0;

  [[nodiscard]] const Tally& tally() const noexcept { return tally_; }

 protected:
  // What an object takes of the capacity.
  [[nodiscard]] uint64_t weight(Object object) const noexcept {
    return sized_ ? trace_.size(object) : 1;
  }
  void count(Object object, bool hit) noexcept {
    ++tally_.requests;
    tally_.hits += hit;
    if (!sized_) return;
    tally_.bytes_requested += trace_.size(object);
    tally_.bytes_hit += hit ? trace_.size(object) : 0;
  }

  const Trace& trace_;
  const bool sized_;
  const uint64_t capacity_;
  uint64_t used_ = 0;  // of the capacity
  Tally tally_;
};

namespace {

// A policy and what it keeps. Slots are recycled, and everything the policy is told is what a Shard
// would tell it, so that it behaves as it would in a cache of this capacity.
class Online final : public Replay::Contender {
 public:
  Online(const Trace& trace, const Contestant& contestant)
      : Contender(trace, contestant.capacity),
        policy_(make_policy(contestant.policy, contestant.options)),
        slot_of_(trace.unique(), kNoSlot) {
    if (sized_) {
      policy_->set_capacity_bytes(capacity_);
    } else {
      tell_capacity(capacity_);
    }
  }

  void replay(size_t begin, size_t end) override {
    const auto objects = trace_.objects();
    for (size_t at = begin; at < end; ++at) {
      if (at + kAhead < end) __builtin_prefetch(&slot_of_[objects[at + kAhead]]);
      const Object object = objects[at];
      const Slot slot = slot_of_[object];
      count(object, slot != kNoSlot);
      if (slot != kNoSlot) {
        policy_->hit(slot);
        continue;
      }
      if (weight(object) > capacity_) continue;
      const Item item = item_of(object);
      while (used_ + weight(object) > capacity_) evict(&item);
      insert(object, item);
    }
  }

  void replay_prompt(size_t begin, size_t end) override {
    const auto blocks = trace_.objects().subspan(begin, end - begin);
    bool prefix = true;
    for (const Object block : blocks) {
      prefix = prefix && slot_of_[block] != kNoSlot;
      count(block, prefix);
    }
    policy_->begin_request(blocks.empty() ? 0 : trace_.hash(blocks.back()));
    // A block that is inserted has no resident child but the one that was inserted just before it:
    // any other would be pinning it.
    Slot child = kNoSlot;  // inserted just before
    for (size_t i = blocks.size(); i-- > 0;) {
      const Object block = blocks[i];
      const bool resident = slot_of_[block] != kNoSlot;
      if (resident) {
        policy_->hit(slot_of_[block]);
      } else {
        insert(block, item_of(block));
      }
      const Slot slot = slot_of_[block];
      if (child != kNoSlot) {
        pins_.pin(slot);
        policy_->link(slot, child);
      }
      child = resident ? kNoSlot : slot;
    }
    while (used_ > capacity_) {
      const Object parent = trace_.parent(evict(nullptr));
      if (parent != kNoObject) pins_.unpin(slot_of_[parent]);
    }
  }

 private:
  // Requests ahead of the one being replayed whose slot is already on its way from memory.
  static constexpr size_t kAhead = 16;

  [[nodiscard]] Item item_of(Object object) const noexcept {
    return {.hash = trace_.hash(object), .size = trace_.size(object), .cost = 1};
  }

  void insert(Object object, const Item& item) {
    const Slot slot = take_slot();
    slot_of_[object] = slot;
    object_in_[slot] = object;
    used_ += weight(object);
    policy_->insert(slot, item);
  }

  void tell_capacity(uint64_t entries) {
    if (entries == told_capacity_) return;
    told_capacity_ = entries;
    policy_->set_capacity(entries);
  }

  // Requires that not all are pinned.
  Object evict(const Item* incoming) {
    if (sized_) tell_capacity(object_in_.size() - free_.size());
    const Slot slot = policy_->evict(pins_, incoming);
    const Object object = object_in_[slot];
    slot_of_[object] = kNoSlot;
    free_.push_back(slot);
    used_ -= weight(object);
    return object;
  }

  Slot take_slot() {
    if (!free_.empty()) {
      const Slot slot = free_.back();
      free_.pop_back();
      return slot;
    }
    if (object_in_.size() == slots_) {
      slots_ = std::max<size_t>(16, slots_ * 2);
      if (!sized_ && capacity_ > object_in_.size()) slots_ = std::min<size_t>(slots_, capacity_);
      policy_->grow(slots_);
    }
    object_in_.push_back(kNoObject);
    return static_cast<Slot>(object_in_.size() - 1);
  }

  std::unique_ptr<Policy> policy_;
  Pins pins_;
  std::vector<Slot> slot_of_;      // of each object of the trace
  std::vector<Object> object_in_;  // each slot
  std::vector<Slot> free_;
  size_t slots_ = 0;  // that the policy has room for
  uint64_t told_capacity_ = 0;
};

// The optimum (Belady 1966, with the liberty not to store). What is resident is kept as the set of
// positions at which it will be asked for next: a request hits if its own position is in the set,
// and the victim is the largest. What is never asked for again is not stored at all, which costs no
// hit.
class Clairvoyant final : public Replay::Contender {
 public:
  Clairvoyant(const Trace& trace, uint64_t capacity, const std::vector<uint32_t>& next)
      : Contender(trace, capacity), next_(next), residents_(next.size()) {}

  void replay(size_t begin, size_t end) override {
    for (size_t at = begin; at < end; ++at) {
      const Object object = trace_.objects()[at];
      const bool hit = residents_.erase(at);
      count(object, hit);
      if (hit) used_ -= weight(object);
      if (next_[at] == kNever || !make_room(weight(object), next_[at])) continue;
      residents_.insert(next_[at]);
      used_ += weight(object);
    }
  }

  // A block is asked for again no later than its children and, in the same prompt, before them: so
  // the farthest is always a leaf, and what is resident of a prompt is a prefix of it.
  void replay_prompt(size_t begin, size_t end) override {
    for (size_t at = begin; at < end; ++at) {
      const bool hit = residents_.erase(at);
      used_ -= hit;
      count(trace_.objects()[at], hit);
    }
    for (size_t at = begin; at < end; ++at) {
      if (next_[at] == kNever) continue;
      residents_.insert(next_[at]);
      ++used_;
    }
    for (; used_ > capacity_; --used_) residents_.erase(residents_.largest());
  }

 private:
  // Evicts what is asked for later than `next`, the farthest first, until `needed` fits; nothing if
  // that would not do.
  bool make_room(uint64_t needed, size_t next) {
    if (used_ + needed <= capacity_) return true;
    if (needed > capacity_) return false;
    victims_.clear();
    uint64_t left = used_;
    for (size_t farthest = residents_.largest(); left + needed > capacity_;
         farthest = residents_.below(farthest)) {
      if (farthest == BitTree::kNone || farthest < next) return false;
      left -= weight(trace_.objects()[farthest]);
      victims_.push_back(farthest);
    }
    for (const size_t victim : victims_) residents_.erase(victim);
    used_ = left;
    return true;
  }

  const std::vector<uint32_t>& next_;
  BitTree residents_;
  std::vector<size_t> victims_;
};

}  // namespace

Replay::Replay(const Trace& trace, const std::vector<Contestant>& contestants)
    : trace_(trace), end_(trace.requests()) {
  for (const Contestant& contestant : contestants) {
    if (contestant.capacity == 0) throw std::invalid_argument("a capacity must be at least 1");
    if (contestant.policy == kOptimum) {
      if (next_.empty()) next_ = next_uses(trace);
      contenders_.push_back(std::make_unique<Clairvoyant>(trace, contestant.capacity, next_));
    } else {
      contenders_.push_back(std::make_unique<Online>(trace, contestant));
    }
  }
}

Replay::~Replay() = default;

size_t Replay::advance(size_t requests) {
  const size_t until = at_ + std::min(requests, end_ - at_);
  if (trace_.kind() != Trace::Kind::kPrefixes) {
    for (const auto& contender : contenders_) contender->replay(at_, until);
    at_ = until;
    return at_;
  }
  const size_t first_prompt = prompt_;
  const size_t begin = at_;
  const auto ends = trace_.prompt_ends();
  while (at_ < until) at_ = ends[prompt_++];
  for (const auto& contender : contenders_) {
    size_t start = begin;
    for (size_t prompt = first_prompt; prompt < prompt_; ++prompt) {
      contender->replay_prompt(start, ends[prompt]);
      start = ends[prompt];
    }
  }
  return at_;
}

std::vector<Tally> Replay::tallies() const {
  std::vector<Tally> tallies;
  tallies.reserve(contenders_.size());
  for (const auto& contender : contenders_) tallies.push_back(contender->tally());
  return tallies;
}

}  // namespace blatam
