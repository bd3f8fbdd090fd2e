// The Python type under blatam_kv.Cache: any hashable key, any value, written against the C API.
//
// It is the one exception to "no logic in bindings". pybind11 costs 35-50 ns a call, more than the
// whole hit; and Python's own equality may run code that comes back to this very cache, so lookups
// cannot be a plain call into core. Everything else (slots, budget, policy, TTL, pins) is core's
// Shard; what is here is references, equality and argument parsing.
#pragma once

#include <Python.h>

namespace blatam::python {

// A new reference to the type `CacheBase`, or nullptr with an exception set.
PyObject* make_cache_type(PyObject* module);

}  // namespace blatam::python
