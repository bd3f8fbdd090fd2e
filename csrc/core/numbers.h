// Numbers are integers as somebody else's array holds them, of 1, 2, 4 or 8 bytes, signed or not,
// read one at a time as 64 bits. Borrowed: the array must outlive them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <ranges>

namespace blatam {

class Numbers {
 public:
  Numbers() = default;
  // Requires width to be 1, 2, 4 or 8. The data need not be aligned.
  Numbers(const void* data, size_t count, size_t width, bool is_signed) noexcept
      : data_(static_cast<const char*>(data)), count_(count), width_(width), signed_(is_signed) {}
  template <std::ranges::contiguous_range Array>
  Numbers(const Array& array) noexcept  // NOLINT: a view, as std::span is one
      : Numbers(std::ranges::data(array), std::ranges::size(array),
                sizeof(std::ranges::range_value_t<Array>),
                std::numeric_limits<std::ranges::range_value_t<Array>>::is_signed) {}

  [[nodiscard]] size_t size() const noexcept { return count_; }
  [[nodiscard]] bool empty() const noexcept { return count_ == 0; }

  // Requires i < size(). A negative one comes out as two's complement.
  [[nodiscard]] uint64_t operator[](size_t i) const noexcept {
    switch (width_) {
      case 1:
        return signed_ ? at<int8_t>(i) : at<uint8_t>(i);
      case 2:
        return signed_ ? at<int16_t>(i) : at<uint16_t>(i);
      case 4:
        return signed_ ? at<int32_t>(i) : at<uint32_t>(i);
      default:
        return at<uint64_t>(i);
    }
  }
  [[nodiscard]] bool negative(size_t i) const noexcept {
    return signed_ && static_cast<int64_t>((*this)[i]) < 0;
  }

 private:
  template <class Integer>
  [[nodiscard]] uint64_t at(size_t i) const noexcept {
    Integer value;
    std::memcpy(&value, data_ + i * sizeof(Integer), sizeof(Integer));
    return static_cast<uint64_t>(static_cast<int64_t>(value));
  }

  const char* data_ = nullptr;
  size_t count_ = 0;
  size_t width_ = 8;
  bool signed_ = false;
};

}  // namespace blatam
