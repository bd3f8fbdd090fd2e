// Regret decides which of several policies a cache follows. It is told, interval after interval,
// what each of them would have hit alone and what the cache really hit.
//
// A rival's regret is how many hits the cache has missed by not following it, begun anew whenever
// it falls to nothing (a CUSUM, Page 1954); and no more than its leader alone has missed, for the
// cache may still be on its way to what the leader holds. Changing costs hits too: what the cache
// holds and the rival does not is going to be let go. That bounds the loss; of late such entries
// brought so many hits, and that bounds it as well. The leader changes when the regret exceeds the
// first bound, plus twice the lower of the two. How far apart they are is taken as the most of
// late: two policies that are apart at times will be so again.
//
// A change is judged when the next one comes: if the cache has done worse since than the leader it
// left would have done alone, each policy is good where the other is bad, and running after them
// costs more than either. Then the next change must be worth twice as much, up to eight times;
// else half as much again.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>

namespace blatam {

template <size_t kRivals>
class Regret {
 public:
  struct Interval {
    double real = 0;                          // hits of the cache
    std::array<double, kRivals> hits{};       // of each policy alone
    std::array<double, kRivals> only_real{};  // hits of the cache that this policy missed
    std::array<double, kRivals> apart{};      // entries of the cache that this policy does not hold
    double fading = 1;                        // what was before the last interval counts now
  };

  // What is worth keeping over a restart.
  struct State {
    std::array<double, kRivals> beside_cache{};   // regret
    std::array<double, kRivals> beside_leader{};  // regret, had the cache always held what it holds
    std::array<double, kRivals> forfeit{};        // only_real of late
    std::array<double, kRivals> apart{};          // the most of late
    double caution = 1;
  };
  static constexpr double kMostCaution = 8;

  explicit Regret(size_t leader) noexcept : leader_(leader), left_(leader) {}

  [[nodiscard]] size_t leader() const noexcept { return leader_; }

  // Returns true if the leader has changed.
  bool judge(const Interval& interval) noexcept {
    real_since_ += interval.real;
    left_since_ += interval.hits[left_];
    size_t next = leader_;
    double most = 0;
    for (size_t rival = 0; rival < kRivals; ++rival) {
      double& forfeit = state_.forfeit[rival];
      double& apart = state_.apart[rival];
      forfeit = forfeit * interval.fading + interval.only_real[rival];
      if (rival == leader_) {
        apart = 0;
        continue;
      }
      apart = std::max(interval.apart[rival], apart * interval.fading);
      const double hits = interval.hits[rival];
      double& beside_cache = state_.beside_cache[rival];
      double& beside_leader = state_.beside_leader[rival];
      beside_cache = std::max(0.0, beside_cache + hits - interval.real);
      beside_leader = std::max(0.0, beside_leader + hits - interval.hits[leader_]);
      const double regret = std::min(beside_cache, beside_leader);
      const double cost = apart + state_.caution * kPrudence * std::min(apart, forfeit);
      if (regret - cost <= most) continue;
      most = regret - cost;
      next = rival;
      last_regret_ = regret;
      last_cost_ = cost;
    }
    if (next == leader_) return false;
    if (left_ != leader_) {
      const bool rued = real_since_ < left_since_;
      state_.caution =
          rued ? std::min(kMostCaution, state_.caution * 2) : std::max(1.0, state_.caution / 2);
    }
    left_ = leader_;
    leader_ = next;
    real_since_ = left_since_ = 0;
    state_.beside_cache.fill(0);
    state_.beside_leader.fill(0);
    return true;
  }

  [[nodiscard]] const State& state() const noexcept { return state_; }
  // Goes on from there; the leader is not judged by what another cache did.
  void restore(size_t leader, const State& state) noexcept {
    leader_ = left_ = leader;
    real_since_ = left_since_ = 0;
    state_ = state;
  }

  // Of the last change: what had been missed, and what the change was expected to cost.
  [[nodiscard]] double last_regret() const noexcept { return last_regret_; }
  [[nodiscard]] double last_cost() const noexcept { return last_cost_; }

 private:
  static constexpr double kPrudence = 2;

  size_t leader_;
  size_t left_;  // the leader before; at first the same
  State state_;
  double real_since_ = 0;  // the last change
  double left_since_ = 0;
  double last_regret_ = 0;
  double last_cost_ = 0;
};

}  // namespace blatam
