// A Mapping is the first bytes of an open file, read-only, as the page cache holds them. It owns
// its part of the address space, not the descriptor, which may be closed at once; the file may be
// renamed, removed or grow meanwhile. Safe from any thread.
//
// Touching a mapped byte that the file does not have, or that the device cannot deliver, is a bus
// error. So whoever reads makes sure that the file has the bytes, and calls populate(), which asks
// the second question as a system call. It does not answer the first: of a file that was cut, the
// kernel may keep pages behind the end and call them resident. What is cut off after the two kills
// the process. A writer of segments cuts only what no reader was shown; nobody else may.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace blatam {

class Mapping {
 public:
  // Maps `bytes` > 0 bytes, which may be more than the file has now. Throws std::system_error.
  Mapping(int descriptor, size_t bytes);
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping();

  [[nodiscard]] std::span<const uint8_t> bytes() const noexcept { return {data_, bytes_}; }

  // Reads a part of it in, from the device where it must. Requires that the file has it. Returns
  // whether it can be touched now; false also where it is out of range or the kernel (before Linux
  // 5.14) cannot say.
  [[nodiscard]] bool populate(size_t offset, size_t bytes) const noexcept;

 private:
  [[nodiscard]] bool resident(const uint8_t* from, size_t bytes) const noexcept;

  const uint8_t* data_;
  size_t bytes_;
  bool may_ask_;  // the kernel tells only who may write the file which of its pages are in memory
};

}  // namespace blatam
