// A Replay asks of every contender, a policy with a capacity, how many of a trace's requests it
// would have answered. It holds no values: a policy, and which objects are resident. All contenders
// walk the trace together, a stretch at a time, so that one pass over it serves them all.
//
// Objects: a request is a get, and a put if that missed, as Cache would do it, to the same victim.
// An object larger than the capacity is not stored.
//
// Prefixes: a prompt hits as many blocks as its longest resident prefix has. Then all of its blocks
// are touched, the last first and the first last, and those missing inserted; then blocks are
// evicted down to the capacity, maybe some just inserted. Only leaves leave: a resident child pins
// its parent.
//
// "belady" is the optimum, which knows the future: the object whose next use is farthest leaves, or
// is not stored in the first place. For objects of one size, and for prefixes, nothing does better.
// With sizes it is one clairvoyant among others: the best choice is a knapsack that nobody solves
// for a long trace.
//
// A Replay belongs to one thread at a time, and the trace must outlive it. It replays the requests
// that the trace had when it was made.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/policy.h"
#include "core/trace.h"

namespace blatam {

inline constexpr std::string_view kOptimum = "belady";

// capacity: bytes for a trace of sized objects, else objects. At least 1.
struct Contestant {
  std::string policy;
  uint64_t capacity = 0;
  PolicyOptions options{};
};

struct Tally {
  uint64_t requests = 0;
  uint64_t hits = 0;
  uint64_t bytes_requested = 0;  // 0 where sizes are not known
  uint64_t bytes_hit = 0;
};

class Replay {
 public:
  // Throws std::invalid_argument for an unknown policy or a capacity of 0.
  Replay(const Trace& trace, const std::vector<Contestant>& contestants);
  Replay(const Replay&) = delete;
  Replay& operator=(const Replay&) = delete;
  ~Replay();

  // Replays so many more requests, or a few more up to the end of a prompt. Returns how many have
  // been replayed in all. May throw std::bad_alloc; the replay is then of no more use.
  size_t advance(size_t requests);
  // As many as the trace has.
  [[nodiscard]] size_t requests() const noexcept { return end_; }
  // Of the requests replayed so far, in the order of the contestants.
  [[nodiscard]] std::vector<Tally> tallies() const;

  class Contender;

 private:
  const Trace& trace_;
  const size_t end_;
  size_t at_ = 0;
  size_t prompt_ = 0;           // the next one, for prefixes
  std::vector<uint32_t> next_;  // where each request's object is asked for again
  std::vector<std::unique_ptr<Contender>> contenders_;
};

}  // namespace blatam
