// What a policy says of itself, as Python objects.
#pragma once

#include <Python.h>

#include "core/policy.h"

namespace blatam::python {

// A new dict, or nullptr with an exception set.
PyObject* report_dict(const PolicyReport& report);

}  // namespace blatam::python
