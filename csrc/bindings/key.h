// Python objects as keys: their references, hashes and equality, as far as these can be had without
// running Python code. Where == has to be asked, match() says so and somebody else asks.
#pragma once

#include <Python.h>

#include <cstdint>
#include <cstring>
#include <new>
#include <utility>
#include <vector>

#include "core/mix.h"
#include "core/shard.h"

namespace blatam::python {

// One owned reference. Its destructor may run any Python code, so no Ref is dropped between a
// lookup and the use of its slot: whatever leaves the shard waits in Removals until the call is
// over.
class Ref {
 public:
  Ref() = default;
  static Ref steal(PyObject* object) noexcept { return Ref(object); }
  static Ref share(PyObject* object) noexcept {
    Py_XINCREF(object);
    return Ref(object);
  }
  Ref(Ref&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  Ref& operator=(Ref&& other) noexcept {
    std::swap(object_, other.object_);
    return *this;
  }
  ~Ref() { Py_XDECREF(object_); }

  [[nodiscard]] explicit operator bool() const noexcept { return object_ != nullptr; }
  [[nodiscard]] PyObject* get() const noexcept { return object_; }
  [[nodiscard]] PyObject* release() noexcept { return std::exchange(object_, nullptr); }
  void prefetch() const noexcept { __builtin_prefetch(object_, 1); }

 private:
  explicit Ref(PyObject* object) noexcept : object_(object) {}
  PyObject* object_ = nullptr;
};

// Python hashes small integers to themselves; the table wants every bit to matter.
inline uint64_t mix(Py_hash_t hash) noexcept { return blatam::mix(static_cast<uint64_t>(hash)); }

// A key on its way to be looked up. Borrowed.
struct Probe {
  PyObject* key = nullptr;
  uint64_t hash = 0;
  // An int whose hash is its value: two such keys of one hash are equal, and telling so touches
  // neither object. -1 is left out, because Python gives it the hash of -2.
  bool plain = false;

  // False with an exception set if the key cannot be hashed. May run Python code, though not for
  // str and small ints.
  bool read(PyObject* object) {
    key = object;
    Py_hash_t python_hash = -1;
    if (PyUnicode_CheckExact(object)) {
      // Without a GIL another thread may be computing it now: -1 or the hash, never half of it.
      python_hash =
          __atomic_load_n(&reinterpret_cast<PyASCIIObject*>(object)->hash, __ATOMIC_RELAXED);
    } else if (PyLong_CheckExact(object)) {
      Py_ssize_t value;
      if (small_value(object, &value)) {
        python_hash = value == -1 ? -2 : value;
        plain = python_hash != -2;
      }
    }
    if (python_hash == -1) {
      python_hash = PyObject_Hash(object);
      if (python_hash == -1) return false;
    }
    hash = mix(python_hash);
    return true;
  }

 private:
  static bool small_value(PyObject* object, Py_ssize_t* value) noexcept {
#if PY_VERSION_HEX >= 0x030C0000
    const auto* number = reinterpret_cast<PyLongObject*>(object);
    if (!PyUnstable_Long_IsCompact(number)) return false;
    *value = PyUnstable_Long_CompactValue(number);
#else
    const Py_ssize_t size = Py_SIZE(object);
    if (size < -1 || size > 1) return false;
    *value = size * static_cast<Py_ssize_t>(reinterpret_cast<PyLongObject*>(object)->ob_digit[0]);
#endif
    return true;
  }
};

// A key as the shard keeps it: an owned reference, with Probe::plain in a bit that the alignment of
// objects leaves free.
class Key {
 public:
  Key() = default;
  explicit Key(const Probe& probe) noexcept
      : bits_(reinterpret_cast<uintptr_t>(Py_NewRef(probe.key)) | (probe.plain ? 1u : 0u)) {}
  Key(Key&& other) noexcept : bits_(std::exchange(other.bits_, 0)) {}
  Key& operator=(Key&& other) noexcept {
    std::swap(bits_, other.bits_);
    return *this;
  }
  ~Key() { Py_XDECREF(get()); }

  [[nodiscard]] PyObject* get() const noexcept {
    return reinterpret_cast<PyObject*>(bits_ & ~uintptr_t{1});
  }
  [[nodiscard]] bool plain() const noexcept { return (bits_ & 1) != 0; }
  void prefetch() const noexcept { __builtin_prefetch(get(), 1); }

 private:
  uintptr_t bits_ = 0;
};

inline bool same_text(PyObject* a, PyObject* b) noexcept {
  if (PyUnicode_IS_COMPACT_ASCII(a) && PyUnicode_IS_COMPACT_ASCII(b)) {
    const Py_ssize_t letters = PyUnicode_GET_LENGTH(a);
    return letters == PyUnicode_GET_LENGTH(b) &&
           std::memcmp(reinterpret_cast<PyASCIIObject*>(a) + 1,
                       reinterpret_cast<PyASCIIObject*>(b) + 1, static_cast<size_t>(letters)) == 0;
  }
  const Py_ssize_t length = PyUnicode_GET_LENGTH(a);
  return length == PyUnicode_GET_LENGTH(b) && PyUnicode_KIND(a) == PyUnicode_KIND(b) &&
         std::memcmp(PyUnicode_DATA(a), PyUnicode_DATA(b),
                     static_cast<size_t>(length) * static_cast<size_t>(PyUnicode_KIND(a))) == 0;
}

inline bool same_bytes(PyObject* a, PyObject* b) noexcept {
  const Py_ssize_t size = PyBytes_GET_SIZE(a);
  return size == PyBytes_GET_SIZE(b) &&
         std::memcmp(PyBytes_AS_STRING(a), PyBytes_AS_STRING(b), static_cast<size_t>(size)) == 0;
}

// Whether two keys are equal, as far as can be told without running Python code. stored_hash is
// read only where it decides, and no two keys of different hashes are ever handed to ==.
inline Match match(const Key& stored, const uint64_t& stored_hash, const Probe& probe) noexcept {
  if (stored.plain() && probe.plain) return stored_hash == probe.hash ? Match::kYes : Match::kNo;
  PyObject* const other = stored.get();
  if (other == probe.key) return Match::kYes;
  if (Py_TYPE(other) == Py_TYPE(probe.key)) {
    if (PyUnicode_CheckExact(other)) return same_text(other, probe.key) ? Match::kYes : Match::kNo;
    if (PyBytes_CheckExact(other)) return same_bytes(other, probe.key) ? Match::kYes : Match::kNo;
  }
  return stored_hash == probe.hash ? Match::kAsk : Match::kNo;
}

// What Python said about keys that had to be compared with ==. The keys are held, so an address
// cannot come to mean another object.
class Verdicts {
 public:
  // False with an exception set if the comparison failed. May run any Python code.
  bool ask(Ref candidate, PyObject* key) {
    const int equal = PyObject_RichCompareBool(candidate.get(), key, Py_EQ);
    if (equal < 0) return false;
    try {
      known_.emplace_back(std::move(candidate), equal == 1);
    } catch (const std::bad_alloc&) {
      PyErr_NoMemory();
      return false;
    }
    return true;
  }
  [[nodiscard]] Match match(const Key& stored, const uint64_t& stored_hash,
                            const Probe& probe) const noexcept {
    const Match at_once = python::match(stored, stored_hash, probe);
    if (at_once != Match::kAsk) return at_once;
    for (const auto& [key, equal] : known_) {
      if (key.get() == stored.get()) return equal ? Match::kYes : Match::kNo;
    }
    return Match::kAsk;
  }

 private:
  std::vector<std::pair<Ref, bool>> known_;
};

}  // namespace blatam::python
