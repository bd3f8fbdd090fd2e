// Which instruction set the kernels use: the best one this machine has, or the one that the
// environment variable BLATAM_KV_ISA names. It is decided once, at the first question, and never
// changes; all calls are safe from any thread. A level promises every feature that the flags of any
// file of that level allow, so a kernel needs no test of its own.
#pragma once

#include <span>
#include <string_view>

namespace blatam {

enum class Isa { baseline, avx2, avx512 };

// "baseline", "avx2" or "avx512".
const char* isa_name(Isa isa) noexcept;

// The levels this machine can run, ascending; the first is always baseline.
std::span<const Isa> supported_isas() noexcept;

// The level called `name`. Throws std::invalid_argument, listing what there is, for a name that is
// unknown or that this machine cannot run.
Isa isa_from_name(std::string_view name);

// What BLATAM_KV_ISA asks for now; unset or empty means the best level. Throws as isa_from_name.
// The Python module calls this when it is imported, so that a mistake is an error there.
Isa isa_from_env();

// The level in use. Kernels dispatch on this and never fail: where isa_from_env throws, baseline.
Isa isa() noexcept;

// True if the CRC-32C instruction may be used: the machine has SSE 4.2 and carry-less
// multiplication (also where AVX2 is missing), and BLATAM_KV_ISA does not ask for baseline.
bool has_crc32c_instruction() noexcept;

}  // namespace blatam
