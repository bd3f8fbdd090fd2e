// Writing around the caches. A StreamWriter hands out room for the next piece of an output, a piece
// of at most kMostPiece bytes after another. Where the output is large it collects pieces in a
// buffer that stays in the first-level cache and sends whole cache lines to memory, so that no line
// is read only to be overwritten; else the room is the output itself. Internal to the file that
// includes it.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __SSE2__
#include <immintrin.h>
#endif

namespace blatam {
namespace {

constexpr size_t kLine = 64;

// `lines` cache lines from `from` to `to`, which begins one.
inline void stream_lines(const uint8_t* from, size_t lines, uint8_t* to) {
#if defined(__AVX512F__)
  for (size_t i = 0; i < kLine * lines; i += 64)
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to + i), _mm512_loadu_si512(from + i));
#elif defined(__AVX2__)
  for (size_t i = 0; i < kLine * lines; i += 32)
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to + i),
                        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + i)));
#elif defined(__SSE2__)
  for (size_t i = 0; i < kLine * lines; i += 16)
    _mm_stream_si128(reinterpret_cast<__m128i*>(to + i),
                     _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i)));
#else
  memcpy(to, from, kLine * lines);
#endif
}

class StreamWriter {
 public:
  static constexpr size_t kMostPiece = 4096;

  StreamWriter(uint8_t* out, bool stream) : out_(out), stream_(stream) {}

  uint8_t* next() { return stream_ ? buffer_ + held_ : out_; }
  void advance(size_t bytes) {
    if (!stream_) {
      out_ += bytes;
      return;
    }
    held_ += bytes;
    if (held_ > sizeof buffer_ - kMostPiece) flush();
  }
  // What is still held goes out, and all of it before anything written later.
  void finish() {
    if (!stream_) return;
    flush();
    memcpy(out_, buffer_, held_);
#ifdef __SSE2__
    _mm_sfence();
#endif
  }

 private:
  // Sends all but what is left of the last cache line.
  void flush() {
    const size_t to_line = (kLine - reinterpret_cast<uintptr_t>(out_) % kLine) % kLine;
    if (held_ < to_line) return;
    memcpy(out_, buffer_, to_line);
    const size_t lines = (held_ - to_line) / kLine;
    stream_lines(buffer_ + to_line, lines, out_ + to_line);
    const size_t sent = to_line + kLine * lines;
    out_ += sent;
    held_ -= sent;
    memmove(buffer_, buffer_ + sent, held_);
  }

  uint8_t* out_;
  bool stream_;
  size_t held_ = 0;
  alignas(kLine) uint8_t buffer_[2 * kMostPiece];
};

}  // namespace
}  // namespace blatam
