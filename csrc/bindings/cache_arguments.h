// What Python code passes to a cache, read and checked: what returns false has set an exception
// that names the argument. A part of cache_type.cc, see cache_object.h.
#pragma once

#include <Python.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "core/expiry.h"

namespace blatam::python {
namespace {

constexpr double kMostSeconds = 9.0e9;  // 285 years: fits in 63 bits of nanoseconds

// Seconds to nanoseconds; infinity is 0, "never".
bool read_ttl(PyObject* seconds, const char* what, Nanoseconds* ttl) {
  const double value = PyFloat_AsDouble(seconds);
  if (value == -1.0 && PyErr_Occurred()) return false;
  if (!(value > 0)) {
    PyErr_Format(PyExc_ValueError, "%s must be a positive number of seconds, not %R", what,
                 seconds);
    return false;
  }
  *ttl = value > kMostSeconds ? 0 : std::max<Nanoseconds>(1, static_cast<Nanoseconds>(value * 1e9));
  return true;
}

bool read_size(PyObject* number, const char* what, uint64_t* size) {
  if (!PyLong_Check(number)) {
    PyErr_Format(PyExc_TypeError, "%s must be an int (bytes), not %.100s", what,
                 Py_TYPE(number)->tp_name);
    return false;
  }
  // 2**62 leaves room to add sizes without overflow.
  const long long value = PyLong_AsLongLong(number);
  if (value == -1 && PyErr_Occurred()) PyErr_Clear();
  if (value < 0 || value > (1LL << 62)) {
    PyErr_Format(PyExc_ValueError, "%s must be from 0 to 2**62 bytes, not %R", what, number);
    return false;
  }
  *size = static_cast<uint64_t>(value);
  return true;
}

bool read_cost(PyObject* number, double* cost) {
  *cost = PyFloat_AsDouble(number);
  if (*cost == -1.0 && PyErr_Occurred()) return false;
  if (*cost >= 0 && std::isfinite(*cost)) return true;
  PyErr_Format(PyExc_ValueError, "cost must be a finite number of at least 0, not %R", number);
  return false;
}

// None and absent alike become nullptr; anything else must be callable.
bool read_callable(PyObject* object, const char* name, PyObject** out) {
  if (object == nullptr || object == Py_None) return true;
  if (!PyCallable_Check(object)) {
    PyErr_Format(PyExc_TypeError, "%s must be callable, not %.100s", name,
                 Py_TYPE(object)->tp_name);
    return false;
  }
  *out = object;
  return true;
}

// Fills out[] from positional arguments, then keywords; the first `required` must be there. Returns
// false with a TypeError that names the argument.
bool parse(const char* function, PyObject* const* args, Py_ssize_t count, PyObject* keywords,
           const char* const* names, Py_ssize_t positional, Py_ssize_t total, Py_ssize_t required,
           PyObject** out) {
  if (count > positional) {
    PyErr_Format(PyExc_TypeError, "%s() takes at most %zd positional arguments (%zd given)",
                 function, positional, count);
    return false;
  }
  for (Py_ssize_t i = 0; i < count; ++i) out[i] = args[i];
  const Py_ssize_t named = keywords == nullptr ? 0 : PyTuple_GET_SIZE(keywords);
  for (Py_ssize_t k = 0; k < named; ++k) {
    PyObject* name = PyTuple_GET_ITEM(keywords, k);
    Py_ssize_t i = 0;
    while (i < total && PyUnicode_CompareWithASCIIString(name, names[i]) != 0) ++i;
    if (i == total) {
      PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword argument '%U'", function, name);
      return false;
    }
    if (out[i] != nullptr) {
      PyErr_Format(PyExc_TypeError, "%s() got multiple values for argument '%U'", function, name);
      return false;
    }
    out[i] = args[count + k];
  }
  for (Py_ssize_t i = 0; i < required; ++i) {
    if (out[i] == nullptr) {
      PyErr_Format(PyExc_TypeError, "%s() is missing the argument '%s'", function, names[i]);
      return false;
    }
  }
  return true;
}

}  // namespace
}  // namespace blatam::python
