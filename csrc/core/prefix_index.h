// A PrefixIndex says which blocks of prompts stay in memory. It knows a block by its name (a digest
// over the whole prefix), its parent and its weight, and gives it a slot; what lies there is kept
// by its owner, who calls from one thread at a time.
//
// A block is of use only while all blocks before it can be had, so a block that another one
// continues is never a victim, and neither is one that is pinned. A prompt is replayed as the
// simulator does it (core/simulate.h): what is new goes in from its end to its beginning, what was
// here is used, and then blocks are evicted until the rest fits, maybe some just inserted.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/digest.h"
#include "core/policy.h"
#include "core/table.h"

namespace blatam {

class PrefixIndex {
 public:
  // Throws std::invalid_argument for an unknown policy. Requires capacity_bytes > 0.
  PrefixIndex(uint64_t capacity_bytes, std::string_view policy);

  // Appends the slots of the leading names that are here.
  void find(std::span<const Digest> names, std::vector<Slot>& slots) const;

  // A request begins, for a prompt whose last block has this name: a use of each of its blocks that
  // are named, the last one first; what is not here is passed over. The policy hears of them behind
  // what the same request inserts, as in the simulator, or when something else happens. Throws
  // std::bad_alloc before it changes anything.
  void use(const Digest& last, std::span<const Digest> names);

  // Inserts successive blocks of a prompt, of so many bytes each: of the request at hand if that
  // has the same last block, else of one that begins. root: `parent` is not a block but what
  // prompts with the same tags begin with; otherwise nothing is inserted unless it is here. slots:
  // those of the leading blocks that are here now, as far as there is room. evicted: what left for
  // them, in order; of the new ones that left at once nothing is said. Room is reserved there for
  // as many as there are, so keep both between calls. planned: what is new takes its place, and its
  // part of the bound, but its content is not there yet: until fill(), or until somebody adds it
  // with its content, it is not here for any other call. Returns how many were here before; of
  // planned ones, how many had their place. Throws std::bad_alloc before it changes anything.
  // Requires names.size() == weights.size().
  size_t add(const Digest& last, const Digest& parent, bool root, std::span<const Digest> names,
             std::span<const uint64_t> weights, bool planned, std::vector<Slot>& slots,
             std::vector<Slot>& evicted);

  // The content of a planned block is there and weighs so much; what leaves for that is appended to
  // evicted. Returns its slot; kNoSlot if it was here already, is not planned any more, or leaves
  // for its own weight. Throws std::bad_alloc before it changes anything.
  [[nodiscard]] Slot fill(const Digest& name, uint64_t weight, std::vector<Slot>& evicted);

  // Of these successive blocks those leave that are still planned, if nothing continues them.
  void abandon(std::span<const Digest> names) noexcept;

  // Pins nest, and hold what comes before too. pin() returns false if the block is not here, and
  // may throw std::bad_alloc; unpin() if it has no pin of this kind.
  [[nodiscard]] bool pin(const Digest& name);
  bool unpin(const Digest& name) noexcept;

  // Takes a block out, pinned or not, and returns its slot; kNoSlot if it is not here, or if
  // another one continues it.
  [[nodiscard]] Slot remove(const Digest& name) noexcept;

  // Slots of what continues a block, or begins under a root: the newest first, at most so many.
  void followers(const Digest& parent, bool root, size_t most, std::vector<Slot>& slots) const;

  // What is known of the uses of at most so many blocks here, those used last, and what the policy
  // learned (prefix_memory.cc). May throw std::bad_alloc.
  [[nodiscard]] std::vector<uint8_t> save(size_t most) const;
  // Teaches an index in which nothing ever was what another one knew: to its policy these blocks
  // have been here and left, and one that comes back was used half as often as it had been. Returns
  // what is wrong with the bytes, or nullptr; what one policy learned is nothing to another.
  // Changes nothing unless they are whole. May throw std::bad_alloc.
  [[nodiscard]] const char* restore(std::span<const uint8_t> bytes);

  // A new bound; what leaves for it is appended, in order. Throws std::bad_alloc before it changes
  // anything. Requires capacity_bytes > 0.
  void resize(uint64_t capacity_bytes, std::vector<Slot>& evicted);

  [[nodiscard]] uint64_t capacity_bytes() const noexcept { return capacity_bytes_; }
  [[nodiscard]] uint64_t bytes() const noexcept { return bytes_; }
  [[nodiscard]] size_t entries() const noexcept { return table_.size(); }
  [[nodiscard]] size_t pinned() const noexcept { return pins_.pinned(); }
  // What the bookkeeping takes.
  [[nodiscard]] size_t memory_bytes() const noexcept;

 private:
  // What continues a block is a list, the newest first. Of a free slot: next is the next free one.
  struct Node {
    Digest name{};
    uint64_t weight = 0;
    uint64_t root = 0;  // of a first block: which list of beginnings it is in
    Slot parent = kNoSlot;
    Slot first = kNoSlot;
    Slot next = kNoSlot;
    Slot previous = kNoSlot;
    uint32_t held = 0;     // pins of the owner's
    uint32_t uses = 0;     // 0: the slot is free
    bool planned = false;  // not here yet
    uint64_t used_at = 0;  // the request
  };

  // Of what is here or planned, and of what is here.
  [[nodiscard]] Slot place_of(const Digest& name) const noexcept;
  [[nodiscard]] Slot slot_of(const Digest& name) const noexcept;
  void drop(Slot slot) noexcept;
  void set_filled(Slot slot, uint64_t weight) noexcept;
  [[nodiscard]] Slot& list_of(const Node& node) noexcept;
  void begin_request(const Digest& last);
  void settle() noexcept;
  void repeat_uses(Slot slot) noexcept;
  std::unique_ptr<Policy> new_policy() const;
  void reserve(size_t more);
  void tell_capacity(uint64_t weight) noexcept;
  Slot insert(const Digest& name, uint64_t weight, Slot parent, uint64_t root) noexcept;
  void make_room(size_t old, std::vector<Slot>& slots, std::vector<Slot>& evicted) noexcept;
  void release(Slot slot) noexcept;

  uint64_t capacity_bytes_;
  const std::string policy_name_;
  std::unique_ptr<Policy> policy_;
  Pins pins_;  // by the owner, and by each block that continues one
  Table table_;
  std::vector<Node> nodes_;
  std::unordered_map<uint64_t, Slot> roots_;  // the newest beginning under each
  size_t slots_ = 0;                          // that everything has room for
  Slot free_ = kNoSlot;
  uint64_t bytes_ = 0;
  uint64_t told_ = 0;
  uint64_t requests_ = 0;                         // that have begun
  uint64_t request_ = 0;                          // the last block of this one
  std::unordered_map<uint64_t, uint32_t> known_;  // uses of blocks that have not come back yet
  std::vector<Slot> used_;  // by it, of which the policy has not heard; the end of the prompt first
};

}  // namespace blatam
