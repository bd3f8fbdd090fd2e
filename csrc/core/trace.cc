#include "core/trace.h"

namespace blatam {
namespace {

// Ids ahead of the one being numbered whose bucket is already on its way from memory.
constexpr size_t kAhead = 16;

}  // namespace

Object Trace::number(uint64_t id, uint64_t size, Object parent) {
  const uint64_t id_hash = mix(id);
  const Slot known = table_.find(id_hash, [&](Slot object) {
    return ids_[object] == id && (kind_ != Kind::kSizedObjects || sizes_[object] == size);
  });
  if (known != kNoSlot) return known;
  const auto object = static_cast<Object>(ids_.size());
  if (table_.size() == table_.room()) {
    table_.reserve(2 * table_.size() + 1, [&](Slot known_object) { return hash(known_object); });
  }
  ids_.push_back(id);
  if (kind_ == Kind::kSizedObjects) sizes_.push_back(size);
  if (kind_ == Kind::kPrefixes) parents_.push_back(parent);
  table_.insert(id_hash, object);
  unique_bytes_ += size;
  return object;
}

Trace::Fault Trace::append(uint64_t id, uint64_t size, Object parent) {
  // Never more objects than requests: one limit does for both.
  if (objects_.size() == kNoObject) return Fault::kTooLong;
  if (size > kMostBytes - bytes_) return Fault::kTooHeavy;
  const Object object = number(id, size, parent);
  if (kind_ == Kind::kPrefixes && parents_[object] != parent) return Fault::kTwoParents;
  objects_.push_back(object);
  bytes_ += size;
  return Fault::kNone;
}

Trace::Added Trace::add(Numbers ids, Numbers sizes) {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (i + kAhead < ids.size()) table_.prefetch(mix(ids[i + kAhead]));
    if (ids.negative(i)) return {i, Fault::kNegativeId};
    if (!sizes.empty() && sizes.negative(i)) return {i, Fault::kNegativeSize};
    const Fault fault = append(ids[i], sizes.empty() ? 0 : sizes[i], kNoObject);
    if (fault != Fault::kNone) return {i, fault};
  }
  return {ids.size(), Fault::kNone};
}

Trace::Added Trace::add_prompt(Numbers ids) {
  Object parent = kNoObject;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids.negative(i)) return {i, Fault::kNegativeId};
    const Fault fault = append(ids[i], 0, parent);
    if (fault != Fault::kNone) return {i, fault};
    parent = objects_.back();
  }
  prompt_ends_.push_back(static_cast<uint32_t>(objects_.size()));
  return {ids.size(), Fault::kNone};
}

std::string_view fault_text(Trace::Fault fault) noexcept {
  switch (fault) {
    case Trace::Fault::kNone:
      break;
    case Trace::Fault::kNegativeId:
      return "an id must be from 0 to 2**64-1, not negative";
    case Trace::Fault::kNegativeSize:
      return "a size must be 0 bytes or more, not negative";
    case Trace::Fault::kTooLong:
      return "a trace can have no more than 2**32-1 requests";
    case Trace::Fault::kTooHeavy:
      return "the sizes of all requests must add up to no more than 2**62 bytes";
    case Trace::Fault::kTwoParents:
      return "the block follows another one than it did before; an id must stand for the whole "
             "prefix that ends with it";
  }
  return "";
}

}  // namespace blatam
