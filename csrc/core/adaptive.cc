#include "core/adaptive.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <utility>

namespace blatam {
namespace {

// A capacity has so many days: the grain of ages.
constexpr size_t kDays = 64;
// Ages are looked at no more often than once in so many uses.
constexpr uint64_t kLook = 4;
// What happened so many capacities of requests ago counts half.
constexpr double kMemory = 16;

}  // namespace

Adaptive::Adaptive(const PolicyOptions& options, Rule rule)
    : rule_(rule),
      interval_(options.interval),
      most_(options.shadows),
      shadows_(options.shadows, rule != Rule::kDensity) {
  if (options.shadows == 0 || options.shadows > kMostShadows) {
    throw std::invalid_argument("shadows must be from 1 to 16777216 entries");
  }
  if (!(options.interval > 0 && options.interval <= 100)) {
    throw std::invalid_argument("interval must be above 0 and at most 100 capacities");
  }
  rank();
}

void Adaptive::grow(size_t slots) {
  if (slots <= slots_) return;
  shadows_.grow(slots);
  lists_.grow(slots);
  if (slots > most_) recall_.grow(slots);
  if (blocks_) families_.resize(slots);
  entries_.resize(slots);
  slots_ = slots;
  if (told_ == kUnbounded) set_capacity(kUnbounded);
}

void Adaptive::set_capacity(size_t entries) noexcept {
  told_ = entries;
  capacity_ = std::max<size_t>(1, entries == kUnbounded ? slots_ : entries);
  day_ = std::max<size_t>(1, capacity_ / kDays);
  shadows_.set_capacity(capacity_, calendar_);
}

void Adaptive::insert(Slot slot, const Item& item) noexcept {
  pass_time();
  Entry& entry = entries_[slot];
  entry.hash = item.hash;
  if (shadows_.sees(item.hash)) {
    const auto cost = static_cast<float>(item.cost);
    entry.uses = shadows_.use(item.hash, cost, false, tail_, now_, calendar_);
  } else {
    entry.uses = static_cast<uint8_t>(std::min<int>(recall_.uses(item.hash) + 1, kMostUses));
  }
  entry.time = static_cast<uint32_t>(now_);
  entry.last = std::exchange(tail_, false);
  place(slot, false);
  think();
}

void Adaptive::use(Slot slot, float cost) noexcept {
  pass_time();
  Entry& entry = entries_[slot];
  const bool seen = shadows_.sees(entry.hash);
  if (seen) shadows_.use(entry.hash, cost, true, tail_, now_, calendar_);
  const size_t old_class = list_class(entry);
  const uint32_t age = static_cast<uint32_t>(now_) - entry.time;
  if (shadows_.competing()) entry.uses >>= std::min<size_t>(7, halvings(now_ - age, now_, capacity_));
  if (entry.uses < kMostUses) ++entry.uses;
  entry.time = static_cast<uint32_t>(now_);
  entry.last = std::exchange(tail_, false);
  const bool moves = now_ - age < calendar_.today().start || list_class(entry) != old_class;
  if (moves && leaf(slot)) {
    lists_.unlink(0, slot);
    place(slot, false);
  }
  if (seen) think();
}

Slot Adaptive::evict(const Pins& pins, const Item*) noexcept {
  const Slot slot = lists_.coldest_unpinned(0, calendar_, pins);
  if (slot == kNoSlot) return kNoSlot;
  const Entry& entry = entries_[slot];
  if (shadows_.sees(entry.hash)) {
    shadows_.left(entry.hash);
  } else {
    recall_.left(entry.hash, entry.uses);
  }
  depart(slot);
  return slot;
}

void Adaptive::remove(Slot slot) noexcept {
  const uint64_t hash = entries_[slot].hash;
  if (shadows_.sees(hash)) shadows_.remove(hash, now_, calendar_);
  depart(slot);
}

void Adaptive::begin_request() {
  if (!blocks_) {
    families_.resize(slots_);
    blocks_ = true;
    shadows_.stop_competing();
    follow(Order::kDensity, 0, 0);
    rank();
  }
  tail_ = true;
  ++now_;
  if (uses_today_ >= day_) begin_day();
}

void Adaptive::link(Slot parent, Slot child) noexcept {
  if (!blocks_) return;
  if (families_[parent].children++ == 0) lists_.unlink(0, parent);
  families_[child].parent = parent;
}

// Takes a slot out of the lists; its parent may be a leaf now.
void Adaptive::depart(Slot slot) noexcept {
  lists_.unlink(0, slot);
  if (!blocks_) return;
  const Slot parent = families_[slot].parent;
  families_[slot] = {};
  // It was touched after its child, and is no younger than what shares its list.
  if (parent != kNoSlot && --families_[parent].children == 0) place(parent, true);
}

void Adaptive::place(Slot slot, bool oldest) noexcept {
  const Entry& entry = entries_[slot];
  const size_t use_class = list_class(entry);
  if (!oldest) {
    lists_.push_newest(0, lists_.list_of(calendar_.today().id, use_class), slot, calendar_);
    return;
  }
  const uint32_t age = static_cast<uint32_t>(now_) - entry.time;
  const size_t index = calendar_.find(now_ - std::min<uint64_t>(age, now_));
  lists_.push_oldest(0, lists_.list_of(calendar_[index].id, use_class), slot, calendar_);
}

void Adaptive::pass_time() noexcept {
  ++uses_today_;
  if (blocks_) return;
  ++now_;
  if (uses_today_ >= day_) begin_day();
}

void Adaptive::begin_day() noexcept {
  uses_today_ = 0;
  calendar_.begin_day(now_, [&](Calendar::UnitId kept, Calendar::UnitId gone) {
    lists_.merge(0, kept, gone);
    shadows_.merge(kept, gone);
  });
  // Looking at all ages takes about a microsecond: in a small cache not every day.
  const bool all = (day_ < kLook) ? ++days_ % (kLook / day_) == 0 : true;
  shadows_.rank_day(calendar_, now_, all);
  rank_day(lists_.ranks(0), leader_, shadows_.lives(), calendar_, now_, capacity_, blocks_, all);
}

void Adaptive::rank() noexcept {
  rank_all(lists_.ranks(0), leader_, shadows_.lives(), calendar_, now_, capacity_, blocks_);
}

// After a request that the shadows saw.
void Adaptive::think() noexcept {
  if (shadows_.learn(calendar_, now_)) {
    shadows_.rank(calendar_, now_);
    rank();
  }
  const Shadows::Tally& tally = shadows_.tally();
  const double capacity = static_cast<double>(shadows_.capacity());
  if (static_cast<double>(tally.requests) < std::max(1.0, std::floor(interval_ * capacity))) return;

  Regret<kOrders>::Interval interval;
  interval.real = tally.real;
  interval.hits = tally.hits;
  interval.only_real = tally.only_real;
  interval.fading = std::exp2(-static_cast<double>(tally.requests) / (kMemory * capacity));
  const double worth = tally.asked / static_cast<double>(tally.requests);
  const auto add = [&](Score& score, double hits) {
    score.ever += hits;
    score.lately = score.lately * interval.fading + hits;
  };
  for (size_t order = 0; order < kOrders; ++order) {
    interval.apart[order] = worth * static_cast<double>(shadows_.apart(static_cast<Order>(order)));
    add(scores_[order], tally.hits[order]);
  }
  add(larger_, tally.larger);
  add(asked_, tally.asked);
  shadows_.reset_tally();
  shadows_.pattern().decide();
  if (!shadows_.competing()) return;

  const bool changed = regret_.judge(interval);
  auto next = static_cast<Order>(regret_.leader());
  if (rule_ == Rule::kPattern) {
    const Pattern::Label label = shadows_.pattern().label();
    if (label == Pattern::Label::kSequential) next = Order::kLru;
    if (label == Pattern::Label::kRandom) next = Order::kLfu;
  }
  if (next == leader_) return;
  const double scale = std::exp2(shadows_.sampled_bits());
  follow(next, changed ? regret_.last_regret() * scale : 0, changed ? regret_.last_cost() * scale : 0);
}

void Adaptive::follow(Order order, double regret, double cost) noexcept {
  if (order == leader_) return;
  switches_[switched_++ % switches_.size()] = {now_, kOrderNames[static_cast<size_t>(leader_)],
                                               kOrderNames[static_cast<size_t>(order)], regret,
                                               cost};
  leader_ = order;
  rank();
}

std::optional<PolicyReport> Adaptive::report() const {
  PolicyReport report;
  report.leader = kOrderNames[static_cast<size_t>(leader_)];
  report.pattern = shadows_.pattern().name();
  report.requests = now_;
  report.sampled = std::exp2(-static_cast<double>(shadows_.sampled_bits()));
  const auto ratio = [](double hits, double asked) { return asked > 0 ? hits / asked : 0; };
  if (shadows_.competing()) {
    for (size_t order = 0; order < kOrders; ++order) {
      report.shadows.push_back({kOrderNames[order], ratio(scores_[order].ever, asked_.ever),
                                ratio(scores_[order].lately, asked_.lately)});
    }
    report.larger = ratio(larger_.ever, asked_.ever);
  }
  report.optimum = shadows_.optimum().hit_ratio();
  report.switched = switched_;
  const uint64_t kept = std::min<uint64_t>(switched_, switches_.size());
  for (uint64_t i = switched_ - kept; i < switched_; ++i) {
    report.switches.push_back(switches_[i % switches_.size()]);
  }
  return report;
}

size_t Adaptive::memory_bytes() const noexcept {
  return entries_.capacity() * sizeof(Entry) + families_.capacity() * sizeof(Family) +
         lists_.memory_bytes() + recall_.memory_bytes() + shadows_.memory_bytes();
}

}  // namespace blatam
