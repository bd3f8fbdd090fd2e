// An object of the type under blatam_kv.Cache: the shard it holds, and how a key is looked up
// there.
//
// This file, cache_arguments.h and cache_entries.h are parts of cache_type.cc and of nothing else,
// in the order of the calls: methods, entries, lookup. All is in one unnamed namespace: what nobody
// else can call the compiler puts where it is called, and a lookup in tens of nanoseconds needs
// that. With the same functions as `inline` ones, a put called its own lookup.
#pragma once

#include <Python.h>

#include <atomic>
#include <cstdint>
#include <exception>
#include <new>
#include <stdexcept>
#include <utility>

#include "bindings/key.h"
#include "core/shard.h"

namespace blatam::python {
namespace {

using PyShard = Shard<Key, Ref>;
using Removals = PyShard::Removals;

struct CacheObject {
  PyObject_HEAD PyShard*
      shard;  // nullptr before __init__ and after garbage collection cleared the object
  PyObject* size_of;
  PyObject* on_evict;
  PyObject* clock;
  PyObject* weak_references;
  Nanoseconds ttl;  // 0: none
  bool idle;        // entries expire when they are not used
  // True from the first entry with a deadline on: only then does anyone need to read the clock.
  // Relaxed: who reads it too early looks before that entry was there.
  std::atomic<bool> dated;
#ifdef Py_GIL_DISABLED
  PyMutex mutex;
#endif
};

// Holds the shard. Without a GIL it is a lock, taken for tens of nanoseconds; with one it is
// nothing. No Python code runs, and nothing is released, while one is held.
class Held {
 public:
#ifdef Py_GIL_DISABLED
  explicit Held(CacheObject* self) noexcept : mutex_(self->mutex) { PyMutex_Lock(&mutex_); }
  ~Held() { PyMutex_Unlock(&mutex_); }

 private:
  PyMutex& mutex_;
#else
  explicit Held(CacheObject*) noexcept {}
  ~Held() {}
#endif
 public:
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;
};

CacheObject* as_cache(PyObject* self) { return reinterpret_cast<CacheObject*>(self); }

bool ready(CacheObject* self) {
  if (self->shard != nullptr) return true;
  PyErr_SetString(PyExc_RuntimeError,
                  "the cache is not initialised; call super().__init__() first");
  return false;
}

// ---- lookup -------------------------------------------------------------------------------------

// The key could not be compared without Python's ==, which may do anything to this cache: hold the
// candidate, let go of the shard, compare, look again.
template <class Act>
[[gnu::noinline]] bool find_asking(CacheObject* self, const Probe& probe, Act&& act) {
  Verdicts verdicts;
  for (;;) {
    Ref candidate;
    {
      const Held held(self);
      const PyShard::Found found =
          self->shard->find(probe.hash, [&](const Key& stored, const uint64_t& stored_hash) {
            return verdicts.match(stored, stored_hash, probe);
          });
      if (found.ask == nullptr) {
        act(*self->shard, found.slot);
        return true;
      }
      candidate = Ref::share(found.ask->get());
    }
    if (!verdicts.ask(std::move(candidate), probe.key) || !ready(self)) return false;
  }
}

// Looks the key up and calls act(shard, slot), slot kNoSlot if it is not there, before anything
// else can touch the shard. act runs no Python code and releases nothing. False with an exception
// set if comparing failed.
template <class Act>
bool find(CacheObject* self, const Probe& probe, Act&& act) {
  {
    const Held held(self);
    const PyShard::Found found =
        self->shard->find(probe.hash, [&](const Key& stored, const uint64_t& stored_hash) {
          return match(stored, stored_hash, probe);
        });
    if (found.ask == nullptr) [[likely]] {
      act(*self->shard, found.slot);
      return true;
    }
  }
  return find_asking(self, probe, act);
}

// Runs f, turning C++ exceptions into Python ones. f returns R; `failed` is returned after one.
template <class R, class F>
R guarded(R failed, F&& f) {
  try {
    return f();
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const std::invalid_argument& error) {
    PyErr_SetString(PyExc_ValueError, error.what());
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  return failed;
}

}  // namespace
}  // namespace blatam::python
