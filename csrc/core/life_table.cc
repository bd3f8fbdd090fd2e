#include "core/life_table.h"

#include <algorithm>

namespace blatam {
namespace {

// As many cases of all classes together are mixed into each age of a class.
constexpr double kLean = 16;
// The same for how a class compares with all.
constexpr double kRatioLean = 16;

// Less than any worth that was learned.
constexpr double kTrifle = 0x1p-100;

double width_of(size_t bin) noexcept {
  return bin < 8 ? 1.0 : static_cast<double>(uint64_t{1} << (bin / 4 - 1));
}
// The chance that something is used again just now, where all that is known of it is its age.
double untrained(size_t bin) noexcept {
  const double age =
      bin < 8 ? static_cast<double>(bin) : width_of(bin) * static_cast<double>(4 + bin % 4);
  return 1 / (age + 1);
}

}  // namespace

LifeTable::LifeTable() noexcept {
  for (auto& worth : worth_) {
    for (size_t bin = 0; bin < kBins; ++bin) worth[bin] = untrained(bin);
  }
}

void LifeTable::learn(const Table& living) noexcept {
  // Who has reached an age, half of those who left it without a use not counted.
  Table at_risk;
  std::array<double, kBins> all_at_risk{};
  std::array<double, kBins> all_hits{};
  for (size_t group = 0; group < kGroups; ++group) {
    double reached = 0;
    for (size_t bin = kBins; bin-- > 0;) {
      const double censored = cases_.forgotten[group][bin] + living[group][bin];
      reached += cases_.used[group][bin] + censored;
      at_risk[group][bin] = reached - censored / 2;
      all_at_risk[bin] += at_risk[group][bin];
      all_hits[bin] += cases_.used[group][bin];
    }
  }
  size_t ages = kBins;
  while (ages > 1 && all_at_risk[ages - 1] <= 0) --ages;
  std::array<double, kBins> all_hazard{};
  for (size_t bin = 0; bin < ages; ++bin) {
    all_hazard[bin] = all_at_risk[bin] > 0 ? all_hits[bin] / all_at_risk[bin] : 0;
  }
  for (size_t group = 0; group < kGroups; ++group) {
    double hits = 0;
    double expected = 0;
    for (size_t bin = 0; bin < ages; ++bin) {
      hits += cases_.used[group][bin];
      expected += at_risk[group][bin] * all_hazard[bin];
    }
    const double ratio = (kRatioLean + hits) / (kRatioLean + expected);
    std::array<double, kBins> hazard;
    for (size_t bin = 0; bin < ages; ++bin) {
      const double leaning = cases_.used[group][bin] + kLean * all_hazard[bin] * ratio;
      hazard[bin] = std::min(1.0, leaning / (at_risk[group][bin] + kLean));
    }
    for (size_t age = 0; age < ages; ++age) {
      double alive = 1;
      double used = 0;
      double held = 0;
      double best = kTrifle * untrained(age);
      for (size_t bin = age; bin < ages; ++bin) {
        const double hit = alive * hazard[bin];
        held += (alive - hit / 2) * width_of(bin);
        used += hit;
        alive -= hit;
        best = std::max(best, used / held);
      }
      worth_[group][age] = best;
    }
    for (size_t age = ages; age < kBins; ++age) {
      worth_[group][age] = std::max(worth_[group][ages - 1], kTrifle * untrained(age));
    }
  }
}

void LifeTable::fade() noexcept {
  for (Table* table : {&cases_.used, &cases_.forgotten}) {
    for (auto& group : *table) {
      for (double& cases : group) cases /= 2;
    }
  }
}

}  // namespace blatam
