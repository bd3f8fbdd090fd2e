// Before Python.h: lengths in formats are Py_ssize_t.
#define PY_SSIZE_T_CLEAN
#include "bindings/policy_report.h"

#include <string_view>
#include <vector>

namespace blatam::python {
namespace {

// For the format "s#": a string and its length.
const char* text(std::string_view view) { return view.data(); }
Py_ssize_t length(std::string_view view) { return static_cast<Py_ssize_t>(view.size()); }

// A new list of what build(item) makes of each, or nullptr with an exception set.
template <class Item, class Build>
PyObject* list_of(const std::vector<Item>& items, Build&& build) {
  PyObject* list = PyList_New(static_cast<Py_ssize_t>(items.size()));
  for (size_t i = 0; list != nullptr && i < items.size(); ++i) {
    PyObject* built = build(items[i]);
    if (built != nullptr) {
      PyList_SET_ITEM(list, static_cast<Py_ssize_t>(i), built);
    } else {
      Py_CLEAR(list);
    }
  }
  return list;
}

}  // namespace

PyObject* report_dict(const PolicyReport& report) {
  PyObject* shadows = list_of(report.shadows, [](const PolicyReport::Shadow& shadow) {
    return Py_BuildValue("(s#dd)", text(shadow.name), length(shadow.name), shadow.hit_ratio,
                         shadow.recent_hit_ratio);
  });
  PyObject* switches = list_of(report.switches, [](const PolicyReport::Switch& change) {
    return Py_BuildValue("(Ks#s#dd)", static_cast<unsigned long long>(change.request),
                         text(change.from), length(change.from), text(change.to), length(change.to),
                         change.regret, change.cost);
  });
  // "N" takes the two over, and fails if one is missing.
  return Py_BuildValue(
      "{ss#ss#sKsdsNsNsKsdsdsd}", "leader", text(report.leader), length(report.leader), "pattern",
      text(report.pattern), length(report.pattern), "requests",
      static_cast<unsigned long long>(report.requests), "sampled", report.sampled, "shadows",
      shadows, "switches", switches, "switched", static_cast<unsigned long long>(report.switched),
      "optimum", report.optimum, "larger", report.larger, "larger_by", report.larger_by);
}

}  // namespace blatam::python
