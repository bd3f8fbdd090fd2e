#include "cuda/bus.h"

#include <string.h>

#include <algorithm>
#include <deque>
#include <utility>

namespace blatam::cuda {

DevicePiece::DevicePiece(std::shared_ptr<Bus> bus, Pool::Piece piece)
    : bus_(std::move(bus)), piece_(piece) {}
DevicePiece::~DevicePiece() { bus_->pool_->give(piece_, std::move(marks_)); }
uint8_t* DevicePiece::data() const noexcept { return bus_->pool_->base() + piece_.at; }

int Bus::open(std::unique_ptr<Runtime> runtime, const BusSizes& sizes, std::shared_ptr<Bus>* bus) {
  if (sizes.buffers < 2 || sizes.buffer_bytes < kLeastBufferBytes) return kTooSmall;
  auto made = std::shared_ptr<Bus>(new Bus(std::move(runtime)));
  Runtime& device = *made->runtime_;
  if (const int code = Pool::open(device, sizes.pool_bytes, &made->pool_); code != kOk) return code;
  for (Stream* stream : {&made->up_stream_, &made->down_stream_, &made->work_stream_})
    if (const int code = device.open_stream(stream); code != kOk) return code;
  if (const int code = Staging::open(device, made->up_stream_, sizes.buffers, sizes.buffer_bytes,
                                     &made->up_staging_);
      code != kOk)
    return code;
  if (const int code = Staging::open(device, made->down_stream_, sizes.buffers, sizes.buffer_bytes,
                                     &made->down_staging_);
      code != kOk)
    return code;
  *bus = std::move(made);
  return kOk;
}

void Bus::close() {
  const std::scoped_lock held(up_lock_, work_lock_, down_lock_);
  broke(kClosed);
  for (Stream* stream : {&up_stream_, &work_stream_, &down_stream_})
    if (*stream != nullptr) runtime_->close_stream(std::exchange(*stream, nullptr));
}

int Bus::take(uint64_t bytes, bool wait, std::shared_ptr<DevicePiece>* piece) {
  if (const int code = broken_; code != kOk) return code;
  Pool::Piece found;
  if (const int code = pool_->take(bytes, wait, &found); code != kOk) return code;
  *piece = std::make_shared<DevicePiece>(shared_from_this(), found);
  return kOk;
}

Bus::Traffic Bus::traffic() const {
  return {.up_bytes = up_bytes_.load(std::memory_order_relaxed),
          .down_bytes = down_bytes_.load(std::memory_order_relaxed),
          .up_waits = up_staging_->waits(),
          .up_busy = up_staging_->busy(),
          .down_busy = down_staging_->busy(),
          .buffers = up_staging_->buffers()};
}

int Bus::up(std::span<const Part> parts, std::shared_ptr<Mark>* done) {
  Pieces pieces;
  for (const Part& part : parts) {
    if (part.at > part.to->bytes() || part.from.size() > part.to->bytes() - part.at)
      return kOutside;
    pieces.push_back(part.to);
  }
  pieces = distinct(std::move(pieces));
  const std::lock_guard held(up_lock_);
  if (const int code = broken_; code != kOk) return code;
  if (const int code = Mark::open(*runtime_, done); code != kOk) return code;
  int code = hold(pieces, up_stream_);
  bool queued = false;
  uint8_t* buffer = nullptr;
  uint32_t index = 0;
  uint64_t filled = up_staging_->buffer_bytes();  // no buffer yet
  for (const Part& part : parts) {
    for (uint64_t begin = 0; code == kOk && begin < part.from.size();) {
      if (filled == up_staging_->buffer_bytes()) {
        if (buffer != nullptr) code = up_staging_->used(index);
        if (code != kOk) return broke(code);
        buffer = nullptr;
        uint8_t* next = nullptr;
        if (code = up_staging_->next(&next, &index); code != kOk) break;
        buffer = next;
        filled = 0;
      }
      const uint64_t size =
          std::min<uint64_t>(part.from.size() - begin, up_staging_->buffer_bytes() - filled);
      memcpy(buffer + filled, part.from.data() + begin, size);
      code = runtime_->copy(part.to->data() + part.at + begin, buffer + filled, size, up_stream_);
      if (code != kOk) break;
      queued = true;
      up_bytes_.fetch_add(size, std::memory_order_relaxed);
      filled += size;
      begin += size;
    }
  }
  if (buffer != nullptr)
    if (const int marked = up_staging_->used(index); marked != kOk) return broke(marked);
  return finish(code, queued, *done, pieces, up_stream_);
}

int Bus::down(const std::shared_ptr<DevicePiece>& piece, uint64_t at, std::span<uint8_t> to) {
  if (at > piece->bytes() || to.size() > piece->bytes() - at) return kOutside;
  const std::lock_guard held(down_lock_);
  if (const int code = broken_; code != kOk) return code;
  if (const int code = hold({piece}, down_stream_); code != kOk) return code;
  struct Flight {
    uint8_t* to;
    uint64_t bytes;
    uint32_t index;
    const uint8_t* from;
  };
  std::deque<Flight> flights;
  int code = kOk;
  for (uint64_t begin = 0; code == kOk && begin < to.size();) {
    if (flights.size() == down_staging_->buffers()) {
      const Flight& first = flights.front();
      code = drain(first.to, first.bytes, first.index, first.from);
      flights.pop_front();
      if (code != kOk) break;
    }
    const uint64_t size = std::min<uint64_t>(to.size() - begin, down_staging_->buffer_bytes());
    uint8_t* buffer = nullptr;
    uint32_t index = 0;
    if (code = down_staging_->next(&buffer, &index); code != kOk) break;
    code = runtime_->copy(buffer, piece->data() + at + begin, size, down_stream_);
    if (code != kOk) break;
    if (code = down_staging_->used(index); code != kOk) return broke(code);
    down_bytes_.fetch_add(size, std::memory_order_relaxed);
    flights.push_back({to.data() + begin, size, index, buffer});
    begin += size;
  }
  for (const Flight& flight : flights) {
    // Also after a failure: the piece may not go while it is read.
    const int drained = drain(flight.to, flight.bytes, flight.index, flight.from);
    if (drained != kOk) return broke(drained);
  }
  return code;
}

int Bus::drain(uint8_t* to, uint64_t bytes, uint32_t index, const uint8_t* from) {
  const int code = down_staging_->await(index);
  if (code == kOk) memcpy(to, from, bytes);
  return code;
}

int Bus::run(const Job& job, bool store, const Pieces& given, std::shared_ptr<Mark>* done) {
  const Pieces pieces = distinct(given);
  const std::lock_guard held(work_lock_);
  if (const int code = broken_; code != kOk) return code;
  if (const int code = Mark::open(*runtime_, done); code != kOk) return code;
  int code = hold(pieces, work_stream_);
  if (code != kOk) return code;
  code = runtime_->run(job, store, work_stream_);
  // A launch that failed may have queued its first half.
  return finish(code, true, *done, pieces, work_stream_);
}

int Bus::follow(Stream stream) {
  const std::lock_guard held(work_lock_);
  if (const int code = broken_; code != kOk) return code;
  std::shared_ptr<Mark> mark;
  if (const int code = Mark::open(*runtime_, &mark); code != kOk) return code;
  if (const int code = mark->set(stream); code != kOk) return code;
  return mark->hold(work_stream_);
}

int Bus::lend(const Pieces& pieces, Stream stream) {
  const int code = hold(distinct(pieces), stream);
  return code != kOk ? code : broken_.load();  // what could not be marked was not waited for
}

int Bus::lent(const Pieces& given, Stream stream) {
  std::shared_ptr<Mark> mark;
  if (const int code = Mark::open(*runtime_, &mark); code != kOk) return broke(code);
  return finish(kOk, true, mark, distinct(given), stream);
}

// Holds a stream back until all has passed that was done with pieces.
int Bus::hold(const Pieces& pieces, Stream stream) {
  Marks marks;
  for (const auto& piece : pieces) {
    const std::lock_guard held(piece->lock_);
    prune(piece->marks_);
    marks.insert(marks.end(), piece->marks_.begin(), piece->marks_.end());
  }
  std::sort(marks.begin(), marks.end());
  marks.erase(std::unique(marks.begin(), marks.end()), marks.end());
  for (const auto& mark : marks)
    if (const int code = mark->hold(stream); code != kOk) return code;
  return kOk;
}

// What was queued is marked, however it went on.
int Bus::finish(int code, bool queued, const std::shared_ptr<Mark>& mark, const Pieces& pieces,
                Stream stream) {
  if (!queued && code != kOk) return code;
  if (const int set = mark->set(stream); set != kOk) return broke(set);
  for (const auto& piece : pieces) {
    const std::lock_guard held(piece->lock_);
    piece->marks_.push_back(mark);
  }
  return code;
}

int Bus::broke(int code) {
  int none = kOk;
  broken_.compare_exchange_strong(none, code);
  return code;
}

Pieces Bus::distinct(Pieces pieces) {
  std::sort(pieces.begin(), pieces.end());
  pieces.erase(std::unique(pieces.begin(), pieces.end()), pieces.end());
  return pieces;
}

}  // namespace blatam::cuda
