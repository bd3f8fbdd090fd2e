// What happens to an entry of a cache, with the Python code around it: hashes and clocks before the
// shard is held, callbacks and releases after. A part of cache_type.cc, see cache_object.h.
#pragma once

#include <Python.h>

#include <atomic>
#include <chrono>
#include <cstdint>

#include "bindings/cache_arguments.h"
#include "bindings/cache_object.h"

namespace blatam::python {
namespace {

PyObject* reason_names[kReasons];  // by Reason; made with the type

[[gnu::noinline]] bool ask_clock(CacheObject* self, Nanoseconds* now) {
  if (self->clock == nullptr) {
    *now = static_cast<Nanoseconds>(std::chrono::duration_cast<std::chrono::nanoseconds>(
                                        std::chrono::steady_clock::now().time_since_epoch())
                                        .count());
    return true;
  }
  const Ref answer = Ref::steal(PyObject_CallNoArgs(self->clock));
  if (!answer) return false;
  const double seconds = PyFloat_AsDouble(answer.get());
  if (seconds == -1.0 && PyErr_Occurred()) return false;
  if (!(seconds >= 0 && seconds <= kMostSeconds)) {
    PyErr_Format(PyExc_ValueError, "clock must return seconds from 0 to 9e9, not %R", answer.get());
    return false;
  }
  *now = static_cast<Nanoseconds>(seconds * 1e9);
  return ready(self);
}

// May call the user's clock; reads none while nothing in the cache can expire. False with an
// exception set.
bool read_clock(CacheObject* self, bool needed, Nanoseconds* now) {
  *now = 0;
  return (!needed && !self->dated.load(std::memory_order_relaxed)) || ask_clock(self, now);
}

// Tells on_evict about what left. Called when the shard is consistent and no slot is in use; keeps
// an exception that is already set. What the callback raises is reported and goes no further.
void announce(CacheObject* self, Removals& removals) {
  if (self->on_evict == nullptr || removals.empty()) return;
  PyObject *type, *value, *traceback;
  PyErr_Fetch(&type, &value, &traceback);
  const Ref callback = Ref::share(self->on_evict);
  removals.for_each([&](PyShard::Removed& removed) {
    const Ref result = Ref::steal(
        PyObject_CallFunctionObjArgs(callback.get(), removed.key.get(), removed.value.get(),
                                     reason_names[static_cast<size_t>(removed.reason)], nullptr));
    if (!result) PyErr_WriteUnraisable(callback.get());
  });
  PyErr_Restore(type, value, traceback);
}

PyObject* refuse(PutResult why, uint64_t size, const Limits& limits) {
  const Ref errors = Ref::steal(PyImport_ImportModule("blatam_kv.errors"));
  if (!errors) return nullptr;
  const bool large = why == PutResult::kTooLarge;
  const Ref type =
      Ref::steal(PyObject_GetAttrString(errors.get(), large ? "EntryTooLarge" : "NoRoom"));
  if (!type) return nullptr;
  if (large) {
    PyErr_Format(type.get(),
                 "the value takes %llu bytes but the whole cache holds %llu; raise capacity_bytes "
                 "or store something smaller",
                 static_cast<unsigned long long>(size),
                 static_cast<unsigned long long>(limits.bytes));
  } else {
    PyErr_SetString(type.get(),
                    "what is pinned leaves no room; unpin something or raise the capacity");
  }
  return nullptr;
}

// Hashes the key and reads the clock, which may run Python code. False with an exception set.
bool begin(CacheObject* self, PyObject* key, Probe* probe, Nanoseconds* now) {
  return ready(self) && probe->read(key) && ready(self) && read_clock(self, false, now);
}

// A new reference to the value, or nullptr: a miss, or (with an exception set) a failure.
PyObject* read(CacheObject* self, const Probe& probe, Nanoseconds now) {
  PyObject* value = nullptr;
  bool stale = false;
  const auto act = [&](PyShard& shard, Slot slot) {
    if (slot == kNoSlot) {
      shard.miss();
    } else if (shard.expired(slot, now)) [[unlikely]] {
      stale = true;
    } else {
      value = Py_NewRef(shard.hit(slot, now).get());
    }
  };
  if (!find(self, probe, act) || !stale) [[likely]]
    return value;

  Removals removals;
  const bool found = guarded(false, [&] {
    return find(self, probe, [&](PyShard& shard, Slot slot) {
      if (slot != kNoSlot && shard.expired(slot, now)) {
        shard.remove(slot, Reason::kExpired, removals);
      }
      shard.miss();
    });
  });
  announce(self, removals);
  (void)found;  // a miss, or a failure with its exception set
  return nullptr;
}

PyObject* read(CacheObject* self, PyObject* key) {
  Probe probe;
  Nanoseconds now;
  return begin(self, key, &probe, &now) ? read(self, probe, now) : nullptr;
}

struct PutArguments {
  PyObject* ttl = nullptr;
  PyObject* size = nullptr;
  PyObject* cost = nullptr;
};

// Reads what comes with a value. May run Python code. False with an exception set.
bool read_put(CacheObject* self, PyObject* value, const PutArguments* given, PyShard::Put* put) {
  const PutArguments arguments = given == nullptr ? PutArguments{} : *given;
  Nanoseconds lifetime = self->ttl;
  if (arguments.ttl != nullptr && arguments.ttl != Py_None &&
      !read_ttl(arguments.ttl, "ttl", &lifetime)) {
    return false;
  }
  if (arguments.size != nullptr && arguments.size != Py_None) {
    if (!read_size(arguments.size, "size", &put->size)) return false;
  } else if (self->size_of != nullptr) {
    const Ref function = Ref::share(self->size_of);
    const Ref measured = Ref::steal(PyObject_CallOneArg(function.get(), value));
    if (!measured || !read_size(measured.get(), "what sizeof returns", &put->size)) return false;
    if (!ready(self)) return false;
  }
  if (arguments.cost != nullptr && arguments.cost != Py_None &&
      !read_cost(arguments.cost, &put->cost)) {
    return false;
  }
  const bool dated = lifetime != 0 || self->idle;
  if (dated) self->dated.store(true, std::memory_order_relaxed);
  if (!read_clock(self, dated, &put->now)) return false;
  put->deadline = lifetime == 0 ? 0 : put->now + lifetime;
  return ready(self);
}

// present: nullptr to store in any case; otherwise an entry that is there already stays, is used,
// and its value is given back in *present.
bool store(CacheObject* self, PyObject* key, PyObject* value, const PutArguments* arguments,
           PyObject** present = nullptr) {
  Probe probe;
  PyShard::Put put;
  if (!ready(self) || !probe.read(key) || !ready(self)) return false;
  const bool plain = arguments == nullptr && self->size_of == nullptr && self->ttl == 0 &&
                     !self->idle && !self->dated.load(std::memory_order_relaxed);
  if (!plain && !read_put(self, value, arguments, &put)) return false;

  Removals removals;
  Key owned_key(probe);
  Ref owned_value = Ref::share(value);
  PutResult result = PutResult::kInserted;
  Limits limits;
  const bool stored = guarded(false, [&] {
    return find(self, probe, [&](PyShard& shard, Slot slot) {
      if (slot != kNoSlot && shard.expired(slot, put.now)) {
        shard.remove(slot, Reason::kExpired, removals);
        slot = kNoSlot;
      }
      if (present != nullptr && slot != kNoSlot) {
        *present = Py_NewRef(shard.hit(slot, put.now).get());
        return;
      }
      if (present != nullptr) shard.miss();
      result = slot == kNoSlot ? shard.insert(probe.hash, owned_key, owned_value, put, removals)
                               : shard.replace(slot, owned_key, owned_value, put, removals);
      limits = shard.limits();
    });
  });
  announce(self, removals);
  if (!stored) return false;
  if (result <= PutResult::kReplaced) [[likely]]
    return true;
  refuse(result, put.size, limits);
  return false;
}

// Takes an entry out. 1: done, with its value in *value if value is not nullptr; 0: not there; -1:
// failed with an exception set.
int take(CacheObject* self, PyObject* key, PyObject** value) {
  Probe probe;
  Nanoseconds now;
  if (!begin(self, key, &probe, &now)) return -1;
  Removals removals;
  Ref taken;
  bool there = false;
  const bool found = guarded(false, [&] {
    return find(self, probe, [&](PyShard& shard, Slot slot) {
      if (slot == kNoSlot) return;
      there = !shard.expired(slot, now);
      if (there) taken = Ref::share(shard.value(slot).get());
      shard.remove(slot, there ? Reason::kDeleted : Reason::kExpired, removals);
    });
  });
  announce(self, removals);
  if (!found) return -1;
  if (there && value != nullptr) *value = taken.release();
  return there ? 1 : 0;
}

// Looks a live entry up and calls f(shard, slot, now) -> bool. 1, 0 (absent, or f said so), -1.
template <class F>
int with_entry(CacheObject* self, PyObject* key, F&& f) {
  Probe probe;
  Nanoseconds now;
  if (!begin(self, key, &probe, &now)) return -1;
  bool answer = false;
  const bool found = guarded(false, [&] {
    return find(self, probe, [&](PyShard& shard, Slot slot) {
      answer = slot != kNoSlot && !shard.expired(slot, now) && f(shard, slot, now);
    });
  });
  return found ? static_cast<int>(answer) : -1;
}

// f(shard, now, removals), for calls on the whole cache. Returns None, or nullptr on failure.
template <class F>
PyObject* with_all(CacheObject* self, bool needs_clock, F&& f) {
  Nanoseconds now = 0;
  if (!ready(self) || (needs_clock && !read_clock(self, false, &now))) return nullptr;
  Removals removals;
  const bool done = guarded(false, [&] {
    const Held held(self);
    f(*self->shard, now, removals);
    return true;
  });
  announce(self, removals);
  return done ? Py_NewRef(Py_None) : nullptr;
}

PyObject* to_bool(int answer) { return answer < 0 ? nullptr : PyBool_FromLong(answer); }

}  // namespace
}  // namespace blatam::python
