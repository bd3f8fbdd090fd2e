// A Trace is a sequence of requests in the form that replays fast: whatever ids they came with,
// objects are numbered 0, 1, 2, ... in the order in which they first appear, so that a replay needs
// arrays and no hash table. Built from one thread; once built, read from any number.
//
// There are three kinds. Objects: each request names one, all count alike. Sized objects: each
// request also says how many bytes it is for; what comes back with another size is another object,
// because the bytes of the old one cannot serve it. Prefixes: a request is a prompt, a chain of
// blocks each of which stands for all the text before it; its parent is the block before it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "core/mix.h"
#include "core/numbers.h"
#include "core/table.h"

namespace blatam {

using Object = uint32_t;
inline constexpr Object kNoObject = 0xFFFFFFFF;

class Trace {
 public:
  enum class Kind : uint8_t { kObjects, kSizedObjects, kPrefixes };

  // Why an id was not taken.
  enum class Fault : uint8_t {
    kNone,
    kNegativeId,
    kNegativeSize,
    kTooLong,     // more requests than 32 bits can number
    kTooHeavy,    // the sizes add up to more than kMostBytes
    kTwoParents,  // a block follows another block than it did before
  };
  // How many ids were taken; all of them if there is no fault.
  struct Added {
    size_t taken = 0;
    Fault fault = Fault::kNone;
  };
  static constexpr uint64_t kMostBytes = uint64_t{1} << 62;

  explicit Trace(Kind kind) : kind_(kind) {}

  // One request for each id. Requires a kind other than kPrefixes, and as many sizes as ids where
  // the objects are sized, else none. May throw std::bad_alloc; the trace is then of no more use.
  [[nodiscard]] Added add(Numbers ids, Numbers sizes = {});
  // One prompt of so many blocks; none are a prompt too. Requires kPrefixes. After a fault, or
  // std::bad_alloc, the trace is of no more use.
  [[nodiscard]] Added add_prompt(Numbers ids);

  [[nodiscard]] Kind kind() const noexcept { return kind_; }
  // Requests, or for prefixes the blocks of all prompts.
  [[nodiscard]] size_t requests() const noexcept { return objects_.size(); }
  [[nodiscard]] size_t unique() const noexcept { return ids_.size(); }
  // What all requests ask for, and what one copy of each object takes; 0 where sizes are not known.
  [[nodiscard]] uint64_t bytes() const noexcept { return bytes_; }
  [[nodiscard]] uint64_t unique_bytes() const noexcept { return unique_bytes_; }

  [[nodiscard]] std::span<const Object> objects() const noexcept { return objects_; }
  // For each prompt, how many blocks the prompts up to its end have together.
  [[nodiscard]] std::span<const uint32_t> prompt_ends() const noexcept { return prompt_ends_; }

  // Well mixed; the same for every size of an id: a policy's memory of it outlives a new version.
  [[nodiscard]] uint64_t hash(Object object) const noexcept { return mix(ids_[object]); }
  // 0 where sizes are not known.
  [[nodiscard]] uint64_t size(Object object) const noexcept {
    return sizes_.empty() ? 0 : sizes_[object];
  }
  // kNoObject for the first block of a prompt. Requires kPrefixes.
  [[nodiscard]] Object parent(Object object) const noexcept { return parents_[object]; }

 private:
  // Appends a request, unless there is a fault.
  Fault append(uint64_t id, uint64_t size, Object parent);
  Object number(uint64_t id, uint64_t size, Object parent);

  Kind kind_;
  std::vector<Object> objects_;  // of each request
  std::vector<uint32_t> prompt_ends_;
  uint64_t bytes_ = 0;
  uint64_t unique_bytes_ = 0;

  Table table_;
  std::vector<uint64_t> ids_;    // of each object
  std::vector<uint64_t> sizes_;  // of each object, or empty
  std::vector<Object> parents_;  // of each object, or empty
};

// What a fault means, for the end of a message.
std::string_view fault_text(Trace::Fault fault) noexcept;

}  // namespace blatam
