// A Bus is the memory of one device that is ours, and the way there and back: a pool of pieces, a
// ring of pinned buffers and a copy stream for each direction, and a stream for kernels. Copies and
// kernels overlap as far as the order of work allows.
//
// That order is kept here and by nobody else: whatever is done with a piece is held back until all
// that was done with it before has passed, and leaves a mark on it; a piece that is let go carries
// its marks to the pool. So nobody can forget an event.
//
// Calls are safe from any thread and return a Code. Where work was queued and could not be marked,
// nothing is known of it any more: the bus is then broken, and every later call says so.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "cuda/mark.h"
#include "cuda/pool.h"
#include "cuda/runtime.h"
#include "cuda/staging.h"

namespace blatam::cuda {

class Bus;

struct BusSizes {
  uint64_t pool_bytes = 0;
  uint32_t buffers = 4;  // of each direction
  uint64_t buffer_bytes = uint64_t{4} << 20;
};

// A piece of the pool, given back with the object, whatever is still under way there.
class DevicePiece {
 public:
  DevicePiece(std::shared_ptr<Bus> bus, Pool::Piece piece);
  DevicePiece(const DevicePiece&) = delete;
  DevicePiece& operator=(const DevicePiece&) = delete;
  ~DevicePiece();

  [[nodiscard]] uint64_t at() const noexcept { return piece_.at; }
  [[nodiscard]] uint64_t bytes() const noexcept { return piece_.bytes; }
  [[nodiscard]] uint8_t* data() const noexcept;

 private:
  friend class Bus;
  const std::shared_ptr<Bus> bus_;
  const Pool::Piece piece_;
  std::mutex lock_;  // guards what follows
  Marks marks_;
};
using Pieces = std::vector<std::shared_ptr<DevicePiece>>;

class Bus : public std::enable_shared_from_this<Bus> {
 public:
  using Stream = Runtime::Stream;
  static constexpr uint64_t kLeastBufferBytes = 4096;

  // Takes all memory that the bus will ever have.
  [[nodiscard]] static int open(std::unique_ptr<Runtime> runtime, const BusSizes& sizes,
                                std::shared_ptr<Bus>* bus);
  Bus(const Bus&) = delete;
  Bus& operator=(const Bus&) = delete;
  ~Bus() { close(); }
  // Waits for what is under way, also of a device that fails: none of it touches anybody's memory
  // any more, and all later work is refused.
  void close();

  [[nodiscard]] Runtime& runtime() noexcept { return *runtime_; }
  [[nodiscard]] const Pool& pool() const noexcept { return *pool_; }

  // As Pool::take.
  [[nodiscard]] int take(uint64_t bytes, bool wait, std::shared_ptr<DevicePiece>* piece);

  // What has gone each way since the start, and the ring buffers whose copies are under way now.
  // up_waits: how often a copy up found none free. Takes no lock that a copy holds.
  struct Traffic {
    uint64_t up_bytes;
    uint64_t down_bytes;
    uint64_t up_waits;
    uint32_t up_busy;
    uint32_t down_busy;
    uint32_t buffers;  // of each direction
  };
  [[nodiscard]] Traffic traffic() const;

  // kOk, or what every later call will say.
  [[nodiscard]] int broken() const noexcept { return broken_; }

  // Bytes of the host for a place in a piece.
  struct Part {
    std::span<const uint8_t> from;
    std::shared_ptr<DevicePiece> to;
    uint64_t at = 0;
  };
  // Copies to the device, by way of pinned memory: when it returns the host's bytes are the
  // caller's again, and `done` passes when they are there.
  [[nodiscard]] int up(std::span<const Part> parts, std::shared_ptr<Mark>* done);
  // Copies from the device; returns when the bytes are there.
  [[nodiscard]] int down(const std::shared_ptr<DevicePiece>& piece, uint64_t at,
                         std::span<uint8_t> to);
  // Runs a job on the bus's own stream; its memory other than the cache lies in `pieces`.
  [[nodiscard]] int run(const Job& job, bool store, const Pieces& pieces,
                        std::shared_ptr<Mark>* done);

  // Lets the bus's own stream wait for what a stream of the caller's was given.
  [[nodiscard]] int follow(Stream stream);
  // Lets a stream of the caller's wait for all that was done with pieces, and, afterwards, keeps
  // them from being taken again before that stream has come so far.
  [[nodiscard]] int lend(const Pieces& pieces, Stream stream);
  [[nodiscard]] int lent(const Pieces& pieces, Stream stream);

 private:
  friend class DevicePiece;

  Bus(std::unique_ptr<Runtime> runtime) : runtime_(std::move(runtime)) {}
  [[nodiscard]] int hold(const Pieces& pieces, Stream stream);
  [[nodiscard]] int finish(int code, bool queued, const std::shared_ptr<Mark>& mark,
                           const Pieces& pieces, Stream stream);
  [[nodiscard]] int drain(uint8_t* to, uint64_t bytes, uint32_t index, const uint8_t* from);
  int broke(int code);
  [[nodiscard]] static Pieces distinct(Pieces pieces);

  std::unique_ptr<Runtime> runtime_;
  std::unique_ptr<Pool> pool_;
  Stream up_stream_ = nullptr;
  Stream down_stream_ = nullptr;
  Stream work_stream_ = nullptr;
  std::unique_ptr<Staging> up_staging_;
  std::unique_ptr<Staging> down_staging_;
  std::mutex up_lock_;  // one copy at a time, each way; no other lock is taken before them
  std::mutex down_lock_;
  std::mutex work_lock_;  // holds and the launch behind them belong together
  std::atomic<int> broken_ = kOk;
  std::atomic<uint64_t> up_bytes_ = 0;  // relaxed: figures, nothing depends on them
  std::atomic<uint64_t> down_bytes_ = 0;
};

}  // namespace blatam::cuda
