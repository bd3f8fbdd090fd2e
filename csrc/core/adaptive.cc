#include "core/adaptive.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <stdexcept>
#include <utility>

namespace blatam {
namespace {

constexpr size_t kMostShadows = size_t{1} << 24;
constexpr double kLongestInterval = 100;
// A capacity of uses has so many days: the grain of ages.
constexpr size_t kDays = 64;
// The ages of all units are looked at no more often than once in so many uses.
constexpr uint64_t kLook = 4;
// What happened so many capacities of requests ago counts half.
constexpr double kHalfLife = 8;
// Costs are summed up, and sums must stay numbers.
constexpr double kMostCost = 1e12;

float cost_of(const Item& item) noexcept {
  return item.cost >= 0 ? static_cast<float>(std::min(item.cost, kMostCost)) : 0;
}
uint32_t size_of(const Item& item) noexcept {
  return static_cast<uint32_t>(std::clamp<uint64_t>(item.size, 1, UINT32_MAX));
}

}  // namespace

Adaptive::Adaptive(const PolicyOptions& options, Rule rule)
    : rule_(rule),
      interval_(options.interval),
      most_(options.shadows),
      shadows_(calendar_, prices_, options.shadows, rule != Rule::kDensity) {
  if (options.shadows == 0 || options.shadows > kMostShadows) {
    throw std::invalid_argument("shadows must be from 1 to 16777216 entries");
  }
  if (!(options.interval > 0 && options.interval <= kLongestInterval)) {
    throw std::invalid_argument("interval must be above 0 and at most 100 capacities");
  }
  rank();
  shadows_.rank_day(true);
}

void Adaptive::grow(size_t slots) {
  if (slots <= slots_) return;
  shadows_.grow(slots);
  lists_.grow(slots);
  if (slots > most_) recall_.grow(slots);
  if (blocks_) families_.resize(slots);
  slots_ = slots;
  if (told_capacity_ == kUnbounded) set_capacity(kUnbounded);
}

void Adaptive::set_capacity(size_t entries) noexcept {
  told_capacity_ = entries;
  capacity_ = std::max<size_t>(1, entries == kUnbounded ? slots_ : entries);
  day_ = std::max<size_t>(1, capacity_ / kDays);
  shadows_.set_capacity(capacity_);
}

void Adaptive::set_capacity_bytes(uint64_t bytes) noexcept {
  capacity_bytes_ = bytes;
  shadows_.set_capacity_bytes(bytes);
}

void Adaptive::insert(Slot slot, const Item& item) noexcept {
  pass_use();
  Entry& entry = lists_.beside(slot);
  const Octave price = put_price(item);
  entry = {.hash = item.hash,
           .used = calendar_.moment(),
           .uses = 0,
           .last = blocks_ && item.hash == last_,
           .price = price};
  const bool seen = shadows_.sees(item.hash);
  if (seen) {
    entry.uses = shadows_.use(
        item.hash,
        {.last = entry.last, .cost = cost_of(item), .size = size_of(item), .price = price});
  } else {
    entry.uses = static_cast<uint8_t>(std::min<int>(recall_.uses(item.hash) + 1, kMostUses));
  }
  lists_.push_newest(0, list_of_today(entry), slot);
  if (seen) think();
}

void Adaptive::use(Slot slot, const Item* item) noexcept {
  Entry& entry = lists_.beside(slot);
  if (blocks_ && entry.used == calendar_.moment()) return;  // counted in this request
  pass_use();
  const bool last = blocks_ && entry.hash == last_;
  const bool seen = shadows_.sees(entry.hash);
  const Octave price = item == nullptr ? entry.price : put_price(*item);
  if (seen) {
    Shadows::Use use{.hit = true, .last = last, .price = price};
    if (item != nullptr) {
      use.cost = cost_of(*item);
      use.size = size_of(*item);
    }
    (void)shadows_.use(entry.hash, use);
  }
  const size_t old_class = class_of_entry(entry);
  const bool stays = price == entry.price && calendar_.is_of_today(calendar_.age_of(entry.used));
  if (entry.uses < kMostUses) ++entry.uses;
  entry.used = calendar_.moment();
  entry.last = last;
  entry.price = price;
  const bool leaf = !blocks_ || families_[slot].children == 0;
  if (leaf && !(stays && class_of_entry(entry) == old_class)) {
    lists_.unlink(0, slot);
    lists_.push_newest(0, list_of_today(entry), slot);
  }
  if (seen) think();
}

// Puts one more entry on the shelf of its price.
Octave Adaptive::put_price(const Item& item) noexcept {
  const double price = cost_of(item) / (capacity_bytes_ == 0 ? 1.0 : size_of(item));
  const Octave octave = Prices::octave_of(price);
  if (prices_.knows(price, octave)) return octave;
  const unsigned shelf = prices_.put(
      price, [&](unsigned each) { return lists_.is_empty(0, each) && shadows_.is_empty(each); });
  lists_.set_price(shelf, prices_.price(shelf));
  shadows_.set_price(shelf, prices_.price(shelf));
  return octave;
}

Slot Adaptive::evict(const Pins& pins, const Item* incoming) noexcept {
  const Slot slot = lists_.coldest(0, pins);
  if (slot == kNoSlot) return kNoSlot;
  if (incoming != nullptr) {
    if (shadows_.sees(incoming->hash)) {
      shadows_.prefetch(incoming->hash);
    } else {
      recall_.prefetch(incoming->hash);
    }
  }
  const Entry& entry = lists_.beside(slot);
  if (shadows_.sees(entry.hash)) {
    shadows_.left(entry.hash);
  } else {
    recall_.left(entry.hash, entry.uses);
  }
  depart(slot);
  return slot;
}

Policy::Guess Adaptive::next_victims() const noexcept {
  const Guess guess = lists_.guess(0);
  if (guess.next != kNoSlot) lists_.prefetch(guess.next);
  return guess;
}

void Adaptive::remove(Slot slot) noexcept {
  const uint64_t hash = lists_.beside(slot).hash;
  if (shadows_.sees(hash)) shadows_.remove(hash);
  depart(slot);
}

void Adaptive::begin_request(uint64_t last) {
  if (!blocks_) {
    families_.resize(slots_);
    blocks_ = true;
    calendar_.refine();
    shadows_.stop_competing();
    follow(Order::kDensity, 0, 0);
    rank();
  }
  last_ = last;
  calendar_.pass_request();
  if (uses_today_ >= day_) begin_day();
}

void Adaptive::link(Slot parent, Slot child) noexcept {
  if (!blocks_ || parent_of(child) != kNoSlot) return;
  if (families_[parent].children++ == 0) lists_.unlink(0, parent);
  families_[child].parent = parent;
  families_[child].parent_birth = families_[parent].birth;
}

// Takes a slot out of the lists; its parent may be a leaf now.
void Adaptive::depart(Slot slot) noexcept {
  if (!blocks_) return lists_.unlink(0, slot);
  Family& family = families_[slot];
  if (family.children == 0) lists_.unlink(0, slot);
  const Slot parent = parent_of(slot);
  family = {.birth = family.birth + 1};
  if (parent == kNoSlot || --families_[parent].children != 0) return;
  const Entry& entry = lists_.beside(parent);
  const Calendar::Unit& unit = calendar_.unit_of(calendar_.age_of(entry.used));
  // Used after its child, it is about as old as whatever shares its list.
  const unsigned shelf = prices_.shelf_of(entry.price);
  lists_.push_oldest(0, list_of(unit.id, class_of_entry(entry), shelf), parent);
}

void Adaptive::pass_use() noexcept {
  ++uses_today_;
  if (blocks_) return;
  calendar_.pass_request();
  if (uses_today_ >= day_) begin_day();
}

void Adaptive::begin_day() noexcept {
  uses_unseen_ += std::exchange(uses_today_, 0);
  calendar_.begin_day([&](Calendar::UnitId kept, Calendar::UnitId gone) {
    lists_.merge(0, kept, gone);
    shadows_.merge(kept, gone);
  });
  const bool all = uses_unseen_ >= kLook;
  if (all) uses_unseen_ = 0;
  shadows_.rank_day(all);
  if (all && leader_ == Order::kDensity) {
    follow_worth();
  } else {
    rank_day(lists_.ranks(0), leader_, shadows_.lives(), calendar_, classes());
  }
}

// Ranks anew what density has just been ranked by.
void Adaptive::follow_worth() noexcept {
  if (!shadows_.competes()) return rank();
  lists_.ranks(0) = shadows_.ranks_of_density();
}

void Adaptive::rank() noexcept {
  rank_all(lists_.ranks(0), leader_, shadows_.lives(), calendar_, classes());
  lists_.weigh_prices(0, leader_ == Order::kDensity);
}

// After a request that the shadows saw.
void Adaptive::think() noexcept {
  if (shadows_.learn() && leader_ == Order::kDensity) follow_worth();
  const Shadows::Tally& tally = shadows_.tally();
  const auto requests = static_cast<double>(tally.requests);
  const auto capacity = static_cast<double>(shadows_.capacity());
  if (requests < interval_ * capacity) return;

  const double fading = std::exp2(-requests / (kHalfLife * capacity));
  const auto add = [&](Score& score, double hits) {
    score.ever += hits;
    score.lately = score.lately * fading + hits;
  };
  Regret<kOrders>::Interval interval{
      .real = tally.real, .hits = tally.hits, .only_real = tally.only_real, .fading = fading};
  for (size_t order = 0; order < kOrders; ++order) {
    add(scores_[order], tally.hits[order]);
    const auto apart = static_cast<double>(shadows_.apart(static_cast<Order>(order)));
    interval.apart[order] = apart * tally.asked / requests;
  }
  add(larger_, tally.larger);
  add(asked_, tally.asked);
  shadows_.reset_tally();
  shadows_.pattern().decide();
  if (!shadows_.competes()) return;

  const bool changed = regret_.judge(interval);
  auto next = static_cast<Order>(regret_.leader());
  const Pattern::Label label = shadows_.pattern().label();
  if (rule_ == Rule::kPattern && label == Pattern::Label::kSequential) next = Order::kLru;
  if (rule_ == Rule::kPattern && label == Pattern::Label::kRandom) next = Order::kLfu;
  const double scale = changed ? std::exp2(shadows_.sampled_bits()) : 0;
  follow(next, regret_.last_regret() * scale, regret_.last_cost() * scale);
}

void Adaptive::follow(Order order, double regret, double cost) noexcept {
  if (order == leader_) return;
  switches_[switched_++ % switches_.size()] = {
      calendar_.now(), kOrderNames[static_cast<size_t>(leader_)],
      kOrderNames[static_cast<size_t>(order)], regret, cost};
  leader_ = order;
  rank();
}

std::optional<PolicyReport> Adaptive::report() const {
  PolicyReport report;
  report.leader = kOrderNames[static_cast<size_t>(leader_)];
  report.pattern = shadows_.pattern().name();
  report.requests = calendar_.now();
  report.sampled = std::exp2(-static_cast<double>(shadows_.sampled_bits()));
  report.optimum = shadows_.optimum().hit_ratio();
  if (shadows_.competes()) {
    const Shadows::Tally& tally = shadows_.tally();
    const auto ratio = [](double hits, double asked) { return asked > 0 ? hits / asked : 0; };
    const double ever = asked_.ever + tally.asked;
    const double lately = asked_.lately + tally.asked;
    for (size_t order = 0; order < kOrders; ++order) {
      const Score& score = scores_[order];
      report.shadows.push_back({kOrderNames[order], ratio(score.ever + tally.hits[order], ever),
                                ratio(score.lately + tally.hits[order], lately)});
    }
    report.larger = ratio(larger_.ever + tally.larger, ever);
  }
  report.switched = switched_;
  for (uint64_t i = switched_ - std::min<uint64_t>(switched_, switches_.size()); i < switched_;
       ++i) {
    report.switches.push_back(switches_[i % switches_.size()]);
  }
  return report;
}

size_t Adaptive::memory_bytes() const noexcept {
  return families_.capacity() * sizeof(Family) + lists_.memory_bytes() + recall_.memory_bytes() +
         shadows_.memory_bytes() + sizeof *this - sizeof shadows_;
}

}  // namespace blatam
