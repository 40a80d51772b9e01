// The parts of the extension module; module.cpp puts them together.
#pragma once
#include <torch/csrc/utils/pybind.h>

namespace collegium::python {

void bind_modules(py::module_& m);
void bind_bench(py::module_& m);

}  // namespace collegium::python
