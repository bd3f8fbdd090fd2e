// What an Adaptive policy learned, as bytes. Numbers are little-endian, doubles IEEE 754.
//
//   offset  size  what
//   0       4     "BKVL"
//   4       4     version, 1
//   8       1     the leader, an Order
//   9       1     the pattern, a Pattern::Label
//   10      6     0
//   16      8     caution
//   24      32    regret of each order beside the cache
//   56      32    regret of each order beside the leader
//   88      32    forfeit of each order
//   120     32    how far each order was apart
//   152     7936  cases of each group used again at each bin of ages
//   8088    7936  the same for those forgotten
//   16024   4     CRC-32C of all before it
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
  uint32_t version = kVersion;
  uint8_t leader = 0;
  uint8_t pattern = 0;
  uint8_t reserved[6] = {};
  double caution = 1;
  std::array<double, kOrders> beside_cache{};
  std::array<double, kOrders> beside_leader{};
  std::array<double, kOrders> forfeit{};
  std::array<double, kOrders> apart{};
  LifeTable::Cases cases{};
};
static_assert(sizeof(State) == 16024);
constexpr size_t kBytes = sizeof(State) + sizeof(uint32_t);

// Numbers of cases and of hits: whole, and no more than anyone lives to see.
bool sane(double value) noexcept { return std::isfinite(value) && value >= 0 && value <= 1e30; }

template <class Values>
bool all_sane(const Values& values) noexcept {
  for (const auto& value : values) {
    if constexpr (requires { value.size(); }) {
      if (!all_sane(value)) return false;
    } else if (!sane(value)) {
      return false;
    }
  }
  return true;
}

bool sane(const State& state) noexcept {
  return state.leader < kOrders && state.pattern < Pattern::kLabels && state.caution >= 1 &&
         state.caution <= Regret<kOrders>::kMostCaution && all_sane(state.beside_cache) &&
         all_sane(state.beside_leader) && all_sane(state.forfeit) && all_sane(state.apart) &&
         all_sane(state.cases.used) && all_sane(state.cases.forgotten);
}

}  // namespace

std::vector<uint8_t> Adaptive::save() const {
  State state;
  std::memcpy(state.magic, kMagic, sizeof kMagic);
  state.leader = static_cast<uint8_t>(regret_.leader());
  state.pattern = static_cast<uint8_t>(shadows_.pattern().label());
  state.caution = regret_.state().caution;
  state.beside_cache = regret_.state().beside_cache;
  state.beside_leader = regret_.state().beside_leader;
  state.forfeit = regret_.state().forfeit;
  state.apart = regret_.state().apart;
  state.cases = shadows_.lives().cases();
  std::vector<uint8_t> bytes(kBytes);
  std::memcpy(bytes.data(), &state, sizeof state);
  const uint32_t sum = crc32c(0, bytes.data(), sizeof state);
  std::memcpy(bytes.data() + sizeof state, &sum, sizeof sum);
  return bytes;
}

const char* Adaptive::restore(std::span<const uint8_t> bytes) noexcept {
  if (bytes.size() < sizeof kMagic || std::memcmp(bytes.data(), kMagic, sizeof kMagic) != 0) {
    return "it is not the state of an adaptive policy";
  }
  uint32_t version = 0;
  if (bytes.size() >= 8) std::memcpy(&version, bytes.data() + 4, sizeof version);
  if (version != kVersion) return "its version is not 1";
  if (bytes.size() != kBytes) return "its length is wrong: it was cut or added to";
  uint32_t sum;
  std::memcpy(&sum, bytes.data() + sizeof(State), sizeof sum);
  if (sum != crc32c(0, bytes.data(), sizeof(State))) return "its checksum is wrong: it is damaged";
  State state;
  std::memcpy(&state, bytes.data(), sizeof state);
  if (!sane(state)) return "it holds what no policy learns";

  regret_.restore(state.leader, {state.beside_cache, state.beside_leader, state.forfeit,
                                 state.apart, state.caution});
  shadows_.pattern().restore(static_cast<Pattern::Label>(state.pattern));
  shadows_.restore(state.cases);
  if (shadows_.competes()) leader_ = static_cast<Order>(state.leader);
  rank();
  return nullptr;
}

}  // namespace blatam
