#include "bindings/cache_type.h"

#include <structmember.h>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bindings/cache_arguments.h"
#include "bindings/cache_entries.h"
#include "bindings/policy_report.h"

namespace blatam::python {
namespace {

// ---- methods ------------------------------------------------------------------------------------

PyObject* cache_get(PyObject* self, PyObject* const* args, Py_ssize_t count, PyObject* keywords) {
  static const char* const names[] = {"key", "default"};
  PyObject* in[2] = {};
  if (count == 1 && keywords == nullptr) [[likely]] {
    in[0] = args[0];
  } else if (!parse("get", args, count, keywords, names, 2, 2, 1, in)) {
    return nullptr;
  }
  if (PyObject* value = read(as_cache(self), in[0])) return value;
  if (PyErr_Occurred()) return nullptr;
  return Py_NewRef(in[1] == nullptr ? Py_None : in[1]);
}

PyObject* cache_peek(PyObject* self, PyObject* const* args, Py_ssize_t count, PyObject* keywords) {
  static const char* const names[] = {"key", "default"};
  PyObject* in[2] = {};
  if (!parse("peek", args, count, keywords, names, 2, 2, 1, in)) return nullptr;
  PyObject* value = nullptr;
  const int found = with_entry(as_cache(self), in[0], [&](PyShard& shard, Slot slot, Nanoseconds) {
    value = Py_NewRef(shard.value(slot).get());
    return true;
  });
  if (found != 0) return found < 0 ? nullptr : value;
  return Py_NewRef(in[1] == nullptr ? Py_None : in[1]);
}

PyObject* cache_put(PyObject* self, PyObject* const* args, Py_ssize_t count, PyObject* keywords) {
  static const char* const names[] = {"key", "value", "ttl", "size", "cost"};
  PyObject* in[5] = {};
  if (!parse("put", args, count, keywords, names, 2, 5, 2, in)) return nullptr;
  const PutArguments arguments{in[2], in[3], in[4]};
  if (!store(as_cache(self), in[0], in[1], count == 2 && !keywords ? nullptr : &arguments)) {
    return nullptr;
  }
  Py_RETURN_NONE;
}

PyObject* cache_setdefault(PyObject* self, PyObject* const* args, Py_ssize_t count,
                           PyObject* keywords) {
  static const char* const names[] = {"key", "default", "ttl", "size", "cost"};
  PyObject* in[5] = {};
  if (!parse("setdefault", args, count, keywords, names, 2, 5, 2, in)) return nullptr;
  const PutArguments arguments{in[2], in[3], in[4]};
  PyObject* present = nullptr;
  if (!store(as_cache(self), in[0], in[1], &arguments, &present)) return nullptr;
  return present != nullptr ? present : Py_NewRef(in[1]);
}

PyObject* cache_pop(PyObject* self, PyObject* const* args, Py_ssize_t count, PyObject* keywords) {
  static const char* const names[] = {"key", "default"};
  PyObject* in[2] = {};
  if (!parse("pop", args, count, keywords, names, 2, 2, 1, in)) return nullptr;
  PyObject* value = nullptr;
  const int found = take(as_cache(self), in[0], &value);
  if (found != 0) return found < 0 ? nullptr : value;
  if (in[1] != nullptr) return Py_NewRef(in[1]);
  PyErr_SetObject(PyExc_KeyError, in[0]);
  return nullptr;
}

PyObject* cache_delete(PyObject* self, PyObject* key) {
  return to_bool(take(as_cache(self), key, nullptr));
}

PyObject* cache_touch(PyObject* self, PyObject* key) {
  return to_bool(with_entry(as_cache(self), key, [](PyShard& shard, Slot slot, Nanoseconds now) {
    shard.touch(slot, now);
    return true;
  }));
}

PyObject* cache_pin(PyObject* self, PyObject* key) {
  return to_bool(with_entry(as_cache(self), key, [](PyShard& shard, Slot slot, Nanoseconds) {
    shard.pin(slot);
    return true;
  }));
}

PyObject* cache_unpin(PyObject* self, PyObject* key) {
  return to_bool(with_entry(as_cache(self), key, [](PyShard& shard, Slot slot, Nanoseconds) {
    return shard.unpin(slot);
  }));
}

PyObject* cache_begin_request(PyObject* self_object, PyObject* last) {
  CacheObject* self = as_cache(self_object);
  Probe probe;
  if (!ready(self) || !probe.read(last) || !ready(self)) return nullptr;
  return guarded<PyObject*>(nullptr, [&] {
    const Held held(self);
    self->shard->begin_request(probe.hash);
    return Py_NewRef(Py_None);
  });
}

PyObject* cache_link(PyObject* self_object, PyObject* const* args, Py_ssize_t count,
                     PyObject* keywords) {
  static const char* const names[] = {"parent", "child"};
  PyObject* in[2] = {};
  if (!parse("link", args, count, keywords, names, 2, 2, 2, in)) return nullptr;
  CacheObject* self = as_cache(self_object);
  Ref parent;  // the stored key: comparing the child's may run code that removes it
  Slot parent_slot = kNoSlot;
  int found = with_entry(self, in[0], [&](PyShard& shard, Slot slot, Nanoseconds) {
    parent = Ref::share(shard.key(slot).get());
    parent_slot = slot;
    return true;
  });
  if (found != 1) return to_bool(found);
  found = with_entry(self, in[1], [&](PyShard& shard, Slot slot, Nanoseconds) {
    const bool there = slot != parent_slot && shard.still_holds(parent_slot, [&](const Key& key) {
      return key.get() == parent.get();
    });
    if (there) shard.link(parent_slot, slot);
    return there;
  });
  return to_bool(found);
}

PyObject* cache_report(PyObject* self_object, PyObject*) {
  CacheObject* self = as_cache(self_object);
  if (!ready(self)) return nullptr;
  return guarded<PyObject*>(nullptr, [&] {
    std::optional<PolicyReport> report;
    {
      const Held held(self);
      report = self->shard->report();
    }
    return report ? report_dict(*report) : Py_NewRef(Py_None);
  });
}

PyObject* cache_save_policy(PyObject* self_object, PyObject*) {
  CacheObject* self = as_cache(self_object);
  if (!ready(self)) return nullptr;
  return guarded<PyObject*>(nullptr, [&] {
    std::vector<uint8_t> bytes;
    {
      const Held held(self);
      bytes = self->shard->save_policy();
    }
    return PyBytes_FromStringAndSize(reinterpret_cast<const char*>(bytes.data()),
                                     static_cast<Py_ssize_t>(bytes.size()));
  });
}

PyObject* cache_restore_policy(PyObject* self_object, PyObject* state) {
  CacheObject* self = as_cache(self_object);
  Py_buffer view;
  if (!ready(self) || PyObject_GetBuffer(state, &view, PyBUF_SIMPLE) != 0) return nullptr;
  const char* wrong;
  {
    const Held held(self);
    wrong = self->shard->restore_policy(
        {static_cast<const uint8_t*>(view.buf), static_cast<size_t>(view.len)});
  }
  PyBuffer_Release(&view);
  return wrong == nullptr ? Py_NewRef(Py_None) : PyUnicode_FromString(wrong);
}

// The next item of a list or tuple, or an empty Ref past its end: Python code that a key runs, or
// another thread, may have shortened it.
Ref item_at(PyObject* sequence, Py_ssize_t i) {
#ifdef Py_GIL_DISABLED
  if (PyList_Check(sequence)) {
    Ref item = Ref::steal(PyList_GetItemRef(sequence, i));
    if (!item) PyErr_Clear();
    return item;
  }
#endif
  if (i >= PySequence_Fast_GET_SIZE(sequence)) return Ref();
  return Ref::share(PySequence_Fast_GET_ITEM(sequence, i));
}

// Fills values[0..count) with new references, in the order of the probes. The buckets of all are on
// their way from memory before the first is looked at. False with an exception set, and then
// the values so far are there.
bool read_batch(CacheObject* self, const Probe* probes, size_t count, Nanoseconds now,
                PyObject* missing, PyObject** values) {
  size_t i = 0;
  while (i < count) {
    {
      const Held held(self);
      PyShard& shard = *self->shard;
      for (size_t j = i; j < count; ++j) shard.prefetch(probes[j].hash);
      for (; i < count; ++i) {
        const PyShard::Found found =
            shard.find(probes[i].hash, [&](const Key& stored, const uint64_t& stored_hash) {
              return match(stored, stored_hash, probes[i]);
            });
        if (found.ask != nullptr) break;
        if (found.slot == kNoSlot) {
          shard.miss();
          values[i] = Py_NewRef(missing);
        } else if (shard.expired(found.slot, now)) {
          break;
        } else {
          values[i] = Py_NewRef(shard.hit(found.slot, now).get());
        }
      }
    }
    if (i == count) break;
    PyObject* value = read(self, probes[i], now);
    if (value == nullptr && PyErr_Occurred()) return false;
    values[i++] = value != nullptr ? value : Py_NewRef(missing);
    if (!ready(self)) return false;
  }
  return true;
}

PyObject* cache_get_many(PyObject* self_object, PyObject* const* args, Py_ssize_t count,
                         PyObject* keywords) {
  static const char* const names[] = {"keys", "default"};
  PyObject* in[2] = {};
  if (!parse("get_many", args, count, keywords, names, 2, 2, 1, in)) return nullptr;
  CacheObject* self = as_cache(self_object);
  PyObject* missing = in[1] == nullptr ? Py_None : in[1];
  const Ref keys = Ref::steal(PySequence_Fast(in[0], "get_many() takes an iterable of keys"));
  Nanoseconds now;
  if (!keys || !ready(self) || !read_clock(self, false, &now)) return nullptr;
  const Py_ssize_t size = PySequence_Fast_GET_SIZE(keys.get());
  Ref values = Ref::steal(PyList_New(size));
  if (!values) return nullptr;
  PyObject_GC_UnTrack(values.get());  // nobody may see it half filled
  constexpr Py_ssize_t kBatch = 16;
  Py_ssize_t filled = 0;
  while (filled < size) {
    Ref held[kBatch];
    Probe probes[kBatch];
    PyObject* found[kBatch] = {};
    const Py_ssize_t wanted = std::min(kBatch, size - filled);
    Py_ssize_t batch = 0;
    for (; batch < wanted; ++batch) {
      held[batch] = item_at(keys.get(), filled + batch);
      if (!held[batch]) break;
      if (!probes[batch].read(held[batch].get())) return nullptr;
    }
    if (batch == 0) break;
    const bool done =
        ready(self) && read_batch(self, probes, static_cast<size_t>(batch), now, missing, found);
    for (Py_ssize_t i = 0; i < batch; ++i) PyList_SET_ITEM(values.get(), filled + i, found[i]);
    if (!done) return nullptr;
    filled += batch;
  }
  PyObject_GC_Track(values.get());
  if (filled < size && PyList_SetSlice(values.get(), filled, size, nullptr) < 0) return nullptr;
  return values.release();
}

PyObject* cache_put_many(PyObject* self, PyObject* const* args, Py_ssize_t count,
                         PyObject* keywords) {
  static const char* const names[] = {"items", "ttl"};
  PyObject* in[2] = {};
  if (!parse("put_many", args, count, keywords, names, 1, 2, 1, in)) return nullptr;
  const Ref items = PyMapping_Check(in[0]) && PyObject_HasAttrString(in[0], "items")
                        ? Ref::steal(PyMapping_Items(in[0]))
                        : Ref::share(in[0]);
  if (!items) return nullptr;
  const Ref iterator = Ref::steal(PyObject_GetIter(items.get()));
  if (!iterator) return nullptr;
  for (;;) {
    const Ref item = Ref::steal(PyIter_Next(iterator.get()));
    if (!item) break;
    const Ref pair = Ref::steal(PySequence_Fast(item.get(), "put_many() takes (key, value) pairs"));
    if (!pair) return nullptr;
    if (PySequence_Fast_GET_SIZE(pair.get()) != 2) {
      PyErr_Format(PyExc_ValueError, "put_many() takes (key, value) pairs, not %R", item.get());
      return nullptr;
    }
    const Ref key = Ref::share(PySequence_Fast_GET_ITEM(pair.get(), 0));
    const Ref value = Ref::share(PySequence_Fast_GET_ITEM(pair.get(), 1));
    const PutArguments arguments{in[1], nullptr, nullptr};
    if (!store(as_cache(self), key.get(), value.get(), &arguments)) return nullptr;
  }
  if (PyErr_Occurred()) return nullptr;
  Py_RETURN_NONE;
}

PyObject* cache_clear(PyObject* self, PyObject*) {
  return with_all(as_cache(self), false,
                  [](PyShard& shard, Nanoseconds, Removals& removals) { shard.clear(removals); });
}

PyObject* cache_expire(PyObject* self, PyObject*) {
  return with_all(as_cache(self), true, [](PyShard& shard, Nanoseconds now, Removals& removals) {
    shard.expire(now, removals);
  });
}

PyObject* cache_set_limits(PyObject* self, PyObject* args) {
  unsigned long long entries, bytes;
  if (!PyArg_ParseTuple(args, "KK", &entries, &bytes)) return nullptr;
  return with_all(as_cache(self), false, [&](PyShard& shard, Nanoseconds, Removals& removals) {
    shard.resize({entries, bytes}, removals);
  });
}

PyObject* cache_change_policy(PyObject* self, PyObject* args) {
  const char* name;
  PolicyOptions options;
  unsigned long long shadows;
  if (!PyArg_ParseTuple(args, "sdddK", &name, &options.decay, &options.window, &options.interval,
                        &shadows)) {
    return nullptr;
  }
  options.shadows = static_cast<size_t>(shadows);
  return with_all(as_cache(self), false, [&](PyShard& shard, Nanoseconds, Removals&) {
    shard.change_policy(name, options);
  });
}

Py_ssize_t cache_length(PyObject* self) {
  if (!ready(as_cache(self))) return -1;
  const Held held(as_cache(self));
  return static_cast<Py_ssize_t>(as_cache(self)->shard->entries());
}

// The keys of the entries that live and for which wanted(slot), which runs no Python code.
template <class Wanted>
PyObject* list_keys(PyObject* self_object, Wanted&& wanted) {
  CacheObject* self = as_cache(self_object);
  Nanoseconds now;
  if (!ready(self) || !read_clock(self, false, &now)) return nullptr;
  // Making the list may run the garbage collector, and so anything; filling it may not.
  const Py_ssize_t room = cache_length(self_object);
  Ref keys = Ref::steal(PyList_New(room));
  if (!keys || !ready(self)) return nullptr;
  Py_ssize_t filled = 0;
  {
    const Held held(self);
    self->shard->for_each_slot([&](Slot slot, const Key& key) {
      if (filled < room && !self->shard->expired(slot, now) && wanted(slot)) {
        PyList_SET_ITEM(keys.get(), filled++, Py_NewRef(key.get()));
      }
    });
  }
  if (PyList_SetSlice(keys.get(), filled, room, nullptr) < 0) return nullptr;
  return keys.release();
}

PyObject* cache_keys(PyObject* self, PyObject*) {
  return list_keys(self, [](Slot) { return true; });
}

PyObject* cache_pinned(PyObject* self, PyObject*) {
  return list_keys(self, [&](Slot slot) { return as_cache(self)->shard->pinned(slot); });
}

PyObject* cache_counters(PyObject* self_object, PyObject*) {
  CacheObject* self = as_cache(self_object);
  if (!ready(self)) return nullptr;
  Stats stats;
  Limits limits;
  size_t overhead;
  {
    const Held held(self);
    stats = self->shard->stats();
    limits = self->shard->limits();
    overhead = self->shard->memory_bytes();
  }
  Ref removals = Ref::steal(PyDict_New());
  if (!removals) return nullptr;
  for (size_t i = 0; i < kReasons; ++i) {
    const Ref count = Ref::steal(PyLong_FromUnsignedLongLong(stats.removals[i]));
    if (!count || PyDict_SetItem(removals.get(), reason_names[i], count.get()) < 0) return nullptr;
  }
  return Py_BuildValue("{sKsKsKsKsKsKsKsKsKsKsnsN}", "hits", stats.hits, "misses", stats.misses,
                       "inserts", stats.inserts, "refused", stats.refused, "entries", stats.entries,
                       "bytes", stats.bytes, "pinned", stats.pinned, "pinned_bytes",
                       stats.pinned_bytes, "capacity", limits.entries, "capacity_bytes",
                       limits.bytes, "overhead_bytes", static_cast<Py_ssize_t>(overhead),
                       "removals", removals.release());
}

// ---- protocols ----------------------------------------------------------------------------------

PyObject* cache_subscript(PyObject* self, PyObject* key) {
  PyObject* value = read(as_cache(self), key);
  if (value == nullptr && !PyErr_Occurred()) PyErr_SetObject(PyExc_KeyError, key);
  return value;
}

int cache_assign(PyObject* self, PyObject* key, PyObject* value) {
  if (value != nullptr) return store(as_cache(self), key, value, nullptr) ? 0 : -1;
  const int found = take(as_cache(self), key, nullptr);
  if (found == 0) PyErr_SetObject(PyExc_KeyError, key);
  return found == 1 ? 0 : -1;
}

int cache_contains(PyObject* self, PyObject* key) {
  return with_entry(as_cache(self), key, [](PyShard&, Slot, Nanoseconds) { return true; });
}

PyObject* cache_iterate(PyObject* self) {
  const Ref keys = Ref::steal(cache_keys(self, nullptr));
  return keys ? PyObject_GetIter(keys.get()) : nullptr;
}

int cache_init(PyObject* self_object, PyObject* args, PyObject* kwargs) {
  static const char* names[] = {"capacity", "capacity_bytes", "policy",   "ttl",   "sizeof",
                                "on_evict", "clock",          "idle_ttl", "decay", "window",
                                "interval", "shadows",        nullptr};
  CacheObject* self = as_cache(self_object);
  unsigned long long entries, bytes;
  const char* policy;
  PyObject *ttl, *size_of, *on_evict, *clock, *idle_ttl;
  PolicyOptions options;
  unsigned long long shadows;
  if (!PyArg_ParseTupleAndKeywords(args, kwargs, "KKsOOOOOdddK", const_cast<char**>(names),
                                   &entries, &bytes, &policy, &ttl, &size_of, &on_evict, &clock,
                                   &idle_ttl, &options.decay, &options.window, &options.interval,
                                   &shadows)) {
    return -1;
  }
  options.shadows = static_cast<size_t>(shadows);
  if (self->shard != nullptr) {
    PyErr_SetString(PyExc_RuntimeError, "the cache is already initialised");
    return -1;
  }
  Nanoseconds lifetime = 0, idle = 0;
  PyObject* callables[3] = {};
  if (ttl != Py_None && !read_ttl(ttl, "ttl", &lifetime)) return -1;
  if (idle_ttl != Py_None && !read_ttl(idle_ttl, "idle_ttl", &idle)) return -1;
  if (!read_callable(size_of, "sizeof", &callables[0]) ||
      !read_callable(on_evict, "on_evict", &callables[1]) ||
      !read_callable(clock, "clock", &callables[2])) {
    return -1;
  }
  return guarded(-1, [&] {
    self->shard = new PyShard({{entries, bytes}, policy, options, idle});
    self->ttl = lifetime;
    self->idle = idle != 0;
    self->size_of = Py_XNewRef(callables[0]);
    self->on_evict = Py_XNewRef(callables[1]);
    self->clock = Py_XNewRef(callables[2]);
    return 0;
  });
}

int cache_traverse(PyObject* self_object, visitproc visit, void* arg) {
  CacheObject* self = as_cache(self_object);
  Py_VISIT(Py_TYPE(self_object));
  Py_VISIT(self->size_of);
  Py_VISIT(self->on_evict);
  Py_VISIT(self->clock);
  if (self->shard == nullptr) return 0;
  int stop = 0;
  self->shard->for_each([&](const Key& key, const Ref& value) {
    if (stop == 0) stop = visit(key.get(), arg);
    if (stop == 0) stop = visit(value.get(), arg);
  });
  return stop;
}

int cache_collect(PyObject* self_object) {
  CacheObject* self = as_cache(self_object);
  Py_CLEAR(self->size_of);
  Py_CLEAR(self->on_evict);
  Py_CLEAR(self->clock);
  // Unhooked first: dropping an entry may run code that comes back here.
  delete std::exchange(self->shard, nullptr);
  return 0;
}

void cache_deallocate(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  PyObject_GC_UnTrack(self);
  if (as_cache(self)->weak_references != nullptr) PyObject_ClearWeakRefs(self);
  cache_collect(self);
  type->tp_free(self);
  Py_DECREF(type);
}

template <class F>
PyCFunction method(F* function) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

template <class F>
void* slot_function(F* function) {
  return reinterpret_cast<void*>(function);
}

constexpr int kFast = METH_FASTCALL | METH_KEYWORDS;

PyMethodDef methods[] = {
    {"get", method(cache_get), kFast,
     "get($self, key, default=None)\n--\n\nThe value, or default. Counts a hit or a miss."},
    {"peek", method(cache_peek), kFast,
     "peek($self, key, default=None)\n--\n\nThe value, or default. Counts nothing: no hit, no "
     "use."},
    {"put", method(cache_put), kFast,
     "put($self, key, value, *, ttl=None, size=None, cost=None)\n--\n\nStore a value."},
    {"setdefault", method(cache_setdefault), kFast,
     "setdefault($self, key, default, *, ttl=None, size=None, cost=None)\n--\n\nThe value that is "
     "there, or default, which is stored: of many threads that ask at once all get the same one."},
    {"pop", method(cache_pop), kFast,
     "pop($self, key, default=<raise KeyError>)\n--\n\nTake an entry out and return its value."},
    {"delete", method(cache_delete), METH_O,
     "delete($self, key, /)\n--\n\nTake an entry out; False if it was not there."},
    {"touch", method(cache_touch), METH_O,
     "touch($self, key, /)\n--\n\nCount a use without reading; False if it is not there."},
    {"pin", method(cache_pin), METH_O,
     "pin($self, key, /)\n--\n\nProtect from eviction (pins nest); False if it is not there."},
    {"unpin", method(cache_unpin), METH_O,
     "unpin($self, key, /)\n--\n\nUndo one pin; False if it was not pinned."},
    {"begin_request", method(cache_begin_request), METH_O,
     "begin_request($self, last, /)\n--\n\nFor blocks of prompts, from before the first put on: "
     "what "
     "is used from here to the next call belongs to one prompt, whose last block has this key."},
    {"link", method(cache_link), kFast,
     "link($self, parent, child)\n--\n\nThe child's block continues the parent's and leaves before "
     "it; False if one is not there. A child has one parent."},
    {"get_many", method(cache_get_many), kFast,
     "get_many($self, keys, default=None)\n--\n\nA list with the value of each key, or default."},
    {"put_many", method(cache_put_many), kFast,
     "put_many($self, items, *, ttl=None)\n--\n\nStore a mapping, or (key, value) pairs."},
    {"clear", method(cache_clear), METH_NOARGS, "clear($self)\n--\n\nRemove everything."},
    {"expire", method(cache_expire), METH_NOARGS,
     "expire($self)\n--\n\nRemove what has outlived its ttl now instead of little by little."},
    {"keys", method(cache_keys), METH_NOARGS,
     "keys($self)\n--\n\nA list of the keys, in no particular order."},
    {"pinned", method(cache_pinned), METH_NOARGS,
     "pinned($self)\n--\n\nA list of the keys that are pinned, in no particular order."},
    {"__class_getitem__", method(Py_GenericAlias), METH_O | METH_CLASS, nullptr},
    {"_set_limits", method(cache_set_limits), METH_VARARGS, nullptr},
    {"_change_policy", method(cache_change_policy), METH_VARARGS, nullptr},
    {"_counters", method(cache_counters), METH_NOARGS, nullptr},
    {"_report", method(cache_report), METH_NOARGS, nullptr},
    {"_save_policy", method(cache_save_policy), METH_NOARGS, nullptr},
    {"_restore_policy", method(cache_restore_policy), METH_O, nullptr},
    {nullptr, nullptr, 0, nullptr}};

PyMemberDef members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(CacheObject, weak_references), READONLY, nullptr},
    {nullptr, 0, 0, 0, nullptr}};

PyType_Slot slots[] = {{Py_tp_init, slot_function(cache_init)},
                       {Py_tp_new, slot_function(PyType_GenericNew)},
                       {Py_tp_dealloc, slot_function(cache_deallocate)},
                       {Py_tp_traverse, slot_function(cache_traverse)},
                       {Py_tp_clear, slot_function(cache_collect)},
                       {Py_tp_iter, slot_function(cache_iterate)},
                       {Py_tp_methods, methods},
                       {Py_tp_members, members},
                       {Py_mp_length, slot_function(cache_length)},
                       {Py_mp_subscript, slot_function(cache_subscript)},
                       {Py_mp_ass_subscript, slot_function(cache_assign)},
                       {Py_sq_contains, slot_function(cache_contains)},
                       {0, nullptr}};

PyType_Spec spec = {"blatam_kv._core.CacheBase", sizeof(CacheObject), 0,
                    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, slots};

}  // namespace

PyObject* make_cache_type(PyObject* module) {
  for (size_t i = 0; i < kReasons; ++i) {
    if (reason_names[i] == nullptr) {
      reason_names[i] = PyUnicode_InternFromString(std::string(kReasonNames[i]).c_str());
    }
    if (reason_names[i] == nullptr) return nullptr;
  }
  return PyType_FromModuleAndSpec(module, &spec, nullptr);
}

}  // namespace blatam::python
