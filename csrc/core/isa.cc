// Detection by __builtin_cpu_supports, which also knows whether the operating system saves the wide
// registers. AVX-512 without VBMI (Skylake-X) counts as avx2: one level more would double the
// variants to test for machines that are going away.
#include "core/isa.h"

#include <array>
#include <cstdlib>
#include <stdexcept>
#include <string>

namespace blatam {
namespace {

constexpr std::array kAllIsas = {Isa::baseline, Isa::avx2, Isa::avx512};
constexpr const char* kVariable = "BLATAM_KV_ISA";

bool machine_has(Isa isa) noexcept {
#ifdef BLATAM_X86
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("f16c") && __builtin_cpu_supports("bmi2") &&
                    __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("pclmul");
  switch (isa) {
    case Isa::baseline:
      return true;
    case Isa::avx2:
      return avx2;
    case Isa::avx512:
      return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
             __builtin_cpu_supports("avx512vbmi");
  }
#endif
  return isa == Isa::baseline;
}

// Levels are nested, so what a machine has is the first few of them.
size_t count_supported() noexcept {
  size_t count = 0;
  while (count < kAllIsas.size() && machine_has(kAllIsas[count])) ++count;
  return count;
}

std::string_view requested() noexcept {
  const char* value = std::getenv(kVariable);  // NOLINT(concurrency-mt-unsafe): read only
  return value == nullptr ? std::string_view() : std::string_view(value);
}

}  // namespace

const char* isa_name(Isa isa) noexcept {
  switch (isa) {
    case Isa::avx2:
      return "avx2";
    case Isa::avx512:
      return "avx512";
    case Isa::baseline:
      break;
  }
  return "baseline";
}

std::span<const Isa> supported_isas() noexcept {
  static const size_t count = count_supported();
  return std::span(kAllIsas).first(count);
}

Isa isa_from_name(std::string_view name) {
  std::string here;
  for (const Isa isa : supported_isas()) {
    if (name == isa_name(isa)) return isa;
    here += here.empty() ? "" : ", ";
    here += isa_name(isa);
  }
  std::string message = std::string(kVariable) + "=" + std::string(name) + ": ";
  for (const Isa isa : kAllIsas)
    if (name == isa_name(isa))
      throw std::invalid_argument(message + "this machine cannot run it. Choose one of: " + here);
  throw std::invalid_argument(message + "no such instruction set. Choose one of: " + here);
}

Isa isa_from_env() {
  const std::string_view name = requested();
  return name.empty() ? supported_isas().back() : isa_from_name(name);
}

Isa isa() noexcept {
  static const Isa chosen = [] {
    try {
      return isa_from_env();
    } catch (const std::exception&) {
      return Isa::baseline;
    }
  }();
  return chosen;
}

bool has_crc32c_instruction() noexcept {
#ifdef BLATAM_X86
  static const bool has = (isa() != Isa::baseline || requested().empty()) &&
                          __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("pclmul");
  return has;
#else
  return false;
#endif
}

}  // namespace blatam
