// What an Adaptive policy learned, as bytes. All numbers are little-endian; doubles are IEEE 754.
//
//   offset  size  what
//   0       4     "BKVL"
//   4       4     version, 1
//   8       1     leader, an Order
//   9       1     pattern, a label
//   10      6     0
//   16      8     caution
//   24      32    regret of each order
//   56      32    forfeit of each order
//   88      32    regret of each order beside the leader alone
//   120     7936  hits of each group of entries at each bin of ages
//   8056    7936  the same for keys that were forgotten
//   15992   4     CRC-32C of all before it
#include <bit>
#include <cmath>
#include <cstring>

#include "core/adaptive.h"
#include "core/crc32c.h"

namespace blatam {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr char kMagic[4] = {'B', 'K', 'V', 'L'};
constexpr uint32_t kVersion = 1;

struct State {
  char magic[4] = {};
  uint32_t version = 0;
  uint8_t leader = 0;
  uint8_t pattern = 0;
  uint8_t reserved[6] = {};
  double caution = 1;
  double regret[kOrders] = {};
  double forfeit[kOrders] = {};
  double to_leader[kOrders] = {};
  LifeTable::Table<double> hits{};
  LifeTable::Table<double> forgotten{};
};
constexpr size_t kBytes = sizeof(State) + sizeof(uint32_t);


uint32_t checksum(const uint8_t* bytes) noexcept { return crc32c(0, bytes, sizeof(State)); }

// A count, or what became of one: neither lost nor absurd.
bool sane(double value) noexcept { return std::isfinite(value) && value >= 0 && value <= 1e18; }

bool sane(const LifeTable::Table<double>& table) noexcept {
  for (const auto& group : table) {
    for (const double cases : group) {
      if (!sane(cases)) return false;
    }
  }
  return true;
}

}  // namespace

std::vector<uint8_t> Adaptive::save() const {
  State state;
  std::memcpy(state.magic, kMagic, sizeof kMagic);
  state.version = kVersion;
  state.leader = static_cast<uint8_t>(leader_);
  state.pattern = static_cast<uint8_t>(shadows_.pattern().label());
  state.caution = regret_.state().caution;
  for (size_t order = 0; order < kOrders; ++order) {
    state.regret[order] = regret_.state().regret[order];
    state.forfeit[order] = regret_.state().forfeit[order];
    state.to_leader[order] = regret_.state().to_leader[order];
  }
  state.hits = shadows_.lives().hits();
  state.forgotten = shadows_.lives().forgotten();
  std::vector<uint8_t> bytes(kBytes);
  std::memcpy(bytes.data(), &state, sizeof state);
  const uint32_t sum = checksum(bytes.data());
  std::memcpy(bytes.data() + sizeof state, &sum, sizeof sum);
  return bytes;
}

const char* Adaptive::restore(std::span<const uint8_t> bytes) noexcept {
  if (bytes.size() < sizeof(kMagic) || std::memcmp(bytes.data(), kMagic, sizeof kMagic) != 0) {
    return "these bytes are not the state of an adaptive policy";
  }
  if (bytes.size() != kBytes) return "the state has the wrong length: it was cut or is not version 1";
  uint32_t sum;
  std::memcpy(&sum, bytes.data() + sizeof(State), sizeof sum);
  if (sum != checksum(bytes.data())) return "the checksum does not fit: the state was damaged";
  State state;
  std::memcpy(&state, bytes.data(), sizeof state);
  if (state.version != kVersion) return "this version of the state is not known";
  bool whole = state.leader < kOrders && state.pattern <= 2 && sane(state.hits) &&
               sane(state.forgotten) && state.caution >= 1 &&
               state.caution <= Regret<kOrders>::kMostCaution;
  Regret<kOrders>::State regret;
  for (size_t order = 0; order < kOrders; ++order) {
    whole = whole && sane(state.regret[order]) && sane(state.forfeit[order]) &&
            sane(state.to_leader[order]);
    regret.regret[order] = state.regret[order];
    regret.forfeit[order] = state.forfeit[order];
    regret.to_leader[order] = state.to_leader[order];
  }
  if (!whole) return "the state holds what no policy learns";
  regret.caution = state.caution;
  regret_.restore(state.leader, regret);
  shadows_.pattern().restore(static_cast<Pattern::Label>(state.pattern));
  shadows_.restore(state.hits, state.forgotten, calendar_, now_);
  if (rule_ != Rule::kDensity && !blocks_) leader_ = static_cast<Order>(state.leader);
  rank();
  return nullptr;
}

}  // namespace blatam
