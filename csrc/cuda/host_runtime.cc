#include "cuda/host_runtime.h"

#include <string.h>

#include <condition_variable>
#include <deque>
#include <functional>
#include <new>
#include <thread>
#include <utility>

#include "cuda/plan.h"

namespace blatam::cuda {
namespace {

constexpr std::align_val_t kAligned{256};

struct Queue;

// How often it was recorded, and up to which of these all is done.
struct Signal {
  std::mutex lock;
  std::condition_variable changed;
  uint64_t recorded = 0;
  uint64_t done = 0;
  Queue* last = nullptr;  // where it was recorded last

  uint64_t next(Queue* where) {
    const std::lock_guard held(lock);
    last = where;
    return ++recorded;
  }
  void reach(uint64_t ticket) {
    const std::lock_guard held(lock);
    if (ticket > done) done = ticket;
    changed.notify_all();
  }
  void await(uint64_t ticket) {
    std::unique_lock held(lock);
    changed.wait(held, [&] { return done >= ticket; });
  }
};

// A piece of work; of a lazy queue, what has to be done before it is named apart.
struct Work {
  std::function<void()> act;
  std::shared_ptr<Signal> after;
  uint64_t ticket = 0;
};

struct Queue {
  // lazy: what a thread holds that works a lazy queue off, and then others for its sake.
  explicit Queue(std::recursive_mutex* lazily) : lazy(lazily) {
    if (lazy == nullptr) worker = std::thread([this] { work(); });
  }
  Queue(const Queue&) = delete;
  ~Queue() {
    if (lazy != nullptr) {
      while (step()) {
      }
      return;
    }
    {
      const std::lock_guard held(lock);
      closing = true;
    }
    some.notify_one();
    worker.join();
  }

  void add(Work item) {
    {
      const std::lock_guard held(lock);
      waiting.push_back(std::move(item));
    }
    some.notify_one();
  }

  // The first piece of work; false if there is none.
  bool step();

  void work() {
    for (;;) {
      Work item;
      {
        std::unique_lock held(lock);
        some.wait(held, [&] { return closing || !waiting.empty(); });
        if (waiting.empty()) return;
        item = std::move(waiting.front());
        waiting.pop_front();
      }
      if (item.after != nullptr) item.after->await(item.ticket);
      if (item.act) item.act();
    }
  }

  std::recursive_mutex* const lazy;
  std::mutex lock;
  std::condition_variable some;
  std::deque<Work> waiting;
  bool closing = false;
  std::thread worker;
};

// Has all done that the event stands for.
void force(Signal& signal, uint64_t ticket) {
  Queue* where;
  {
    const std::lock_guard held(signal.lock);
    where = signal.last;
  }
  for (;;) {
    {
      const std::lock_guard held(signal.lock);
      if (signal.done >= ticket) return;
    }
    if (where == nullptr || where->lazy == nullptr || !where->step()) return signal.await(ticket);
  }
}

bool Queue::step() {
  const std::lock_guard only(*lazy);
  Work item;
  {
    const std::lock_guard held(lock);
    if (waiting.empty()) return false;
    item = std::move(waiting.front());
    waiting.pop_front();
  }
  if (item.after != nullptr) force(*item.after, item.ticket);
  if (item.act) item.act();
  return true;
}

Queue* queue_of(Runtime::Stream stream) { return static_cast<Queue*>(stream); }

// An event may be closed while work still names it.
std::shared_ptr<Signal>& signal_of(Runtime::Event event) {
  return *static_cast<std::shared_ptr<Signal>*>(event);
}

int allocate_aligned(uint64_t bytes, uint8_t** memory) {
  *memory = static_cast<uint8_t*>(::operator new(bytes, kAligned, std::nothrow));
  return *memory != nullptr ? kOk : kOutOfMemory;
}

}  // namespace

void HostRuntime::fail_after(uint64_t calls, int code, bool forever) {
  const std::lock_guard held(failing_);
  calls_left_ = calls;
  code_ = code;
  forever_ = forever;
}

int HostRuntime::failure() {
  const std::lock_guard held(failing_);
  if (calls_left_ == UINT64_MAX) return kOk;
  if (calls_left_ > 0) {
    --calls_left_;
    return kOk;
  }
  if (!forever_) calls_left_ = UINT64_MAX;
  return code_;
}

int HostRuntime::allocate(uint64_t bytes, uint8_t** memory) {
  if (const int code = failure(); code != kOk) return code;
  return allocate_aligned(bytes, memory);
}
void HostRuntime::release(uint8_t* memory) { ::operator delete(memory, kAligned); }
int HostRuntime::allocate_pinned(uint64_t bytes, uint8_t** memory) {
  return allocate(bytes, memory);
}
void HostRuntime::release_pinned(uint8_t* memory) { release(memory); }

int HostRuntime::open_stream(Stream* stream) {
  if (const int code = failure(); code != kOk) return code;
  *stream = new Queue(order_ == Order::lazy ? &stepping_ : nullptr);
  return kOk;
}
void HostRuntime::close_stream(Stream stream) { delete queue_of(stream); }

int HostRuntime::open_event(Event* event) {
  if (const int code = failure(); code != kOk) return code;
  *event = new std::shared_ptr<Signal>(std::make_shared<Signal>());
  return kOk;
}
void HostRuntime::close_event(Event event) { delete static_cast<std::shared_ptr<Signal>*>(event); }

int HostRuntime::copy(uint8_t* to, const uint8_t* from, uint64_t bytes, Stream stream) {
  if (const int code = failure(); code != kOk) return code;
  if (stream == nullptr) {
    memcpy(to, from, bytes);
  } else {
    queue_of(stream)->add({[=] { memcpy(to, from, bytes); }, nullptr});
  }
  return kOk;
}

int HostRuntime::run(const Job& job, bool store, Stream stream) {
  if (const int code = failure(); code != kOk) return code;
  const auto act = store ? blatam_paged_store : blatam_paged_fetch;
  if (stream == nullptr) return act(&job);
  Plan plan;  // what is wrong is said at once, as on a device
  if (const int code = make_plan(job, &plan); code != kOk) return code;
  queue_of(stream)->add({[job, act] { (void)act(&job); }, nullptr});
  return kOk;
}

int HostRuntime::record(Event event, Stream stream) {
  if (const int code = failure(); code != kOk) return code;
  const std::shared_ptr<Signal> signal = signal_of(event);
  const uint64_t ticket = signal->next(queue_of(stream));
  if (stream == nullptr) {
    signal->reach(ticket);
  } else {
    queue_of(stream)->add({[signal, ticket] { signal->reach(ticket); }, nullptr});
  }
  return kOk;
}

int HostRuntime::wait(Stream stream, Event event) {
  if (const int code = failure(); code != kOk) return code;
  const std::shared_ptr<Signal> signal = signal_of(event);
  uint64_t ticket;
  {
    const std::lock_guard held(signal->lock);
    ticket = signal->recorded;
  }
  if (stream == nullptr) {
    force(*signal, ticket);
  } else {
    queue_of(stream)->add({nullptr, signal, ticket});
  }
  return kOk;
}

int HostRuntime::query(Event event) {
  if (const int code = failure(); code != kOk) return code;
  const std::shared_ptr<Signal> signal = signal_of(event);
  const std::lock_guard held(signal->lock);
  return signal->done >= signal->recorded ? kOk : kNotYet;
}

int HostRuntime::synchronize(Event event) {
  if (const int code = failure(); code != kOk) return code;
  const std::shared_ptr<Signal> signal = signal_of(event);
  uint64_t ticket;
  {
    const std::lock_guard held(signal->lock);
    ticket = signal->recorded;
  }
  force(*signal, ticket);
  return kOk;
}

}  // namespace blatam::cuda
