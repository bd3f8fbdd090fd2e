// Regret decides which of several policies leads. It is told, interval after interval, what each of
// them would have hit and what the cache that follows the leader really did.
//
// A rival's regret is how many hits the cache has missed by not following it, begun anew whenever
// it falls to nothing (a CUSUM, Page 1954); and no more than its leader alone has missed, for the
// cache may still be on its way to what the leader holds. Changing costs: what the cache holds and the rival does
// not was kept for the old leader's sake. But only hits that would come of it are lost, and how
// many came lately is known too. The leader changes when the regret exceeds what is apart, plus
// four times the smaller of the two.
//
// A change is judged when the next one comes: if the cache has done worse than the leader it left
// would have done alone, two policies are each good where the other is bad, and following them
// costs more than either. Then the next change must be worth twice as much, up to eight times.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

namespace blatam {

template <size_t kRivals>
class Regret {
 public:
  struct Interval {
    double real = 0;                           // hits of the cache
    std::array<double, kRivals> hits{};        // of each policy alone
    std::array<double, kRivals> only_real{};   // hits of the cache that this policy missed
    std::array<double, kRivals> apart{};       // entries of the cache that this policy does not hold
    double fading = 1;                         // what only_real counts an interval later
  };

  // What is worth keeping over a restart.
  struct State {
    std::array<double, kRivals> regret{};    // beside the cache
    std::array<double, kRivals> to_leader{};  // beside the leader alone
    std::array<double, kRivals> forfeit{};
    double caution = 1;
  };

  explicit Regret(size_t leader) noexcept : leader_(leader), left_(leader) {}

  [[nodiscard]] size_t leader() const noexcept { return leader_; }

  // Returns true if the leader has changed.
  bool judge(const Interval& interval) noexcept {
    real_since_ += interval.real;
    left_since_ += interval.hits[left_];
    size_t next = leader_;
    double most = 0;
    for (size_t rival = 0; rival < kRivals; ++rival) {
      state_.forfeit[rival] = state_.forfeit[rival] * interval.fading + interval.only_real[rival];
      if (rival == leader_) { peak_[rival]=0; continue; }
      const double hits = interval.hits[rival];
      double& to_cache = state_.regret[rival];
      double& to_leader = state_.to_leader[rival];
      to_cache = std::max(0.0, to_cache + hits - interval.real);
      to_leader = std::max(0.0, to_leader + hits - interval.hits[leader_]);
      const double regret = std::min(to_cache, to_leader);
      peak_[rival] = std::max(interval.apart[rival], peak_[rival] * interval.fading);
      const double apart = peak_[rival];
      const double cost = apart + state_.caution * 4 * std::min(apart, state_.forfeit[rival]);
      if (regret - cost > most) {
        most = regret - cost;
        next = rival;
        last_regret_ = regret;
        last_cost_ = cost;
      }
    }
    if (next == leader_) return false;
    if (left_ != leader_) {
      state_.caution = real_since_ < left_since_ ? std::min(kMostCaution, state_.caution * 2)
                                                 : std::max(1.0, state_.caution / 2);
    }
    follow(next);
    return true;
  }

  // Makes it the leader, whatever the regrets are.
  void follow(size_t leader) noexcept {
    left_ = leader_;
    leader_ = leader;
    real_since_ = left_since_ = 0;
    state_.regret.fill(0);
    state_.to_leader.fill(0);
  }

  static constexpr double kMostCaution = 8;
  [[nodiscard]] const State& state() const noexcept { return state_; }
  void restore(size_t leader, const State& state) noexcept {
    follow(leader);
    left_ = leader;
    state_ = state;
  }

  // Of the last change: what had been missed, and what the change was expected to cost.
  [[nodiscard]] double last_regret() const noexcept { return last_regret_; }
  [[nodiscard]] double last_cost() const noexcept { return last_cost_; }

 private:
  size_t leader_;
  size_t left_;  // the leader before; at first the same
  State state_;
  std::array<double, kRivals> peak_{};
  double real_since_ = 0;  // the last change
  double left_since_ = 0;
  double last_regret_ = 0;
  double last_cost_ = 0;
};

}  // namespace blatam
