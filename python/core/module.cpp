// collegium._core: what the Python package is built on. Not an interface of its own; see python/collegium.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <torch/csrc/Exceptions.h>

#include "collegium/recipe/catalogues.h"
#include "collegium/recipe/published.h"
#include "python/core/convert.h"
#include "python/core/modules.h"

namespace collegium::python {
namespace {

const char* python_name(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::usage:
      return "UsageError";
    case ErrorKind::refused:
      return "RefusedError";
    case ErrorKind::data:
      return "DataError";
    case ErrorKind::io:
      return "IoError";
    case ErrorKind::interrupted:
      return "Error";
  }
  return "Error";
}

void raise(const Error& error) {
  if (error.kind() == ErrorKind::interrupted) return PyErr_SetString(PyExc_KeyboardInterrupt, error.what());
  const auto type = py::module_::import("collegium.errors").attr(python_name(error.kind()));
  PyErr_SetObject(type.ptr(), type(error.what(), error.hint()).ptr());
}

// Ours become collegium's exceptions; torch's own (a hook's Python exception among them) become what torch makes of
// them. Python's exceptions under way belong to pybind11.
void translate(std::exception_ptr pointer) {
  try {
    if (pointer) std::rethrow_exception(pointer);
  } catch (const Error& error) {
    raise(error);
  } catch (const py::error_already_set&) {
    throw;
  } catch (const py::builtin_exception&) {
    throw;
  } catch (...) {
    torch::translate_exception_to_python(std::current_exception());
  }
}

py::list all_catalogues() {
  py::list out;
  for (const auto& catalogue : catalogues()) {
    py::list entries;
    for (const auto& entry : catalogue.entries) entries.append(dict_from(entry));
    py::dict one;
    one["name"] = std::string(catalogue.name), one["singular"] = std::string(catalogue.singular);
    one["entries"] = entries;
    out.append(one);
  }
  return out;
}

// (kind, fields, d_model, name -> tensor) of one layer of a published model.
py::tuple published_layer(const std::string& layout, const std::string& path, int64_t layer) {
  const auto read = [&] {
    const py::gil_scoped_release without_gil;
    return read_published(layout, path, layer);
  }();
  py::dict tensors;
  for (const auto& [name, tensor] : read.tensors) tensors[py::str(name)] = tensor;
  return py::make_tuple(read.kind, dict_from(read.fields), read.d_model, tensors);
}

}  // namespace
}  // namespace collegium::python

PYBIND11_MODULE(_core, m) {
  namespace here = collegium::python;
  py::register_local_exception_translator(&here::translate);
  m.def("catalogues", &here::all_catalogues);
  m.def("resolve", [](const std::string& catalogue, const std::string& name, const py::dict& fields) {
    return here::dict_from(collegium::resolve_component(catalogue, here::named_from(name, fields)));
  });
  m.def("nearest",
        [](const std::string& word, const std::vector<std::string>& known) { return collegium::nearest(word, known); });
  m.def("published_layer", &here::published_layer);
  here::bind_modules(m);
  here::bind_bench(m);
}
