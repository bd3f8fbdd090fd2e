#include "core/policy.h"

#include <array>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "core/adaptive.h"
#include "core/policy_arc.h"
#include "core/policy_fifo.h"
#include "core/policy_gdsf.h"
#include "core/policy_lfu.h"
#include "core/policy_lirs.h"
#include "core/policy_lru.h"
#include "core/policy_s3fifo.h"
#include "core/policy_sieve.h"
#include "core/policy_tinylfu.h"

namespace blatam {
namespace {

template <class P>
std::unique_ptr<Policy> make(const PolicyOptions& options) {
  if constexpr (std::is_constructible_v<P, const PolicyOptions&>) {
    return std::make_unique<P>(options);
  } else {
    return std::make_unique<P>();
  }
}

template <>
std::unique_ptr<Policy> make<Lfu>(const PolicyOptions& options) {
  if (options.decay < 1) return std::make_unique<FadingLfu>(options.decay);
  return std::make_unique<Lfu>();
}

struct Registered {
  std::string_view name;
  std::unique_ptr<Policy> (*make)(const PolicyOptions&);
};

// A new policy is one new file and one line here.
// clang-format off
constexpr std::array kRegistry = {
    Registered{"lru", make<Lru>},
    Registered{"lfu", make<Lfu>},
    Registered{"fifo", make<Fifo>},
    Registered{"s3fifo", make<S3Fifo>},
    Registered{"sieve", make<Sieve>},
    Registered{"tinylfu", make<TinyLfu>},
    Registered{"arc", make<Arc>},
    Registered{"lirs", make<Lirs>},
    Registered{"gdsf", make<Gdsf>},
    Registered{"density", make<Density>},
    Registered{"adaptive", make<Adaptive>},
    Registered{"pattern", make<ByPattern>},
};
// clang-format on

constexpr auto kNames = [] {
  std::array<std::string_view, kRegistry.size()> names;
  for (size_t i = 0; i < names.size(); ++i) names[i] = kRegistry[i].name;
  return names;
}();

}  // namespace

std::unique_ptr<Policy> make_policy(std::string_view name, const PolicyOptions& options) {
  for (const Registered& policy : kRegistry) {
    if (policy.name == name) return policy.make(options);
  }
  std::string message = "unknown policy '" + std::string(name) + "'; known:";
  for (const std::string_view known : kNames) message.append(" ").append(known);
  throw std::invalid_argument(message);
}

std::span<const std::string_view> policy_names() noexcept { return kNames; }

}  // namespace blatam
