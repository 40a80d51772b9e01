// Between Python's dicts and Collegium's tables, and from decisions to what Python shows of them.
#pragma once
#include <torch/csrc/utils/pybind.h>

#include "collegium/base/catalogue.h"
#include "collegium/route/stages.h"

namespace collegium::python {

/// A table from a dict of str keys with bool, int, float, str, list, tuple and dict values. Values are marked as
/// from "Python", so errors say so. Throws a usage Error that names the key for anything else.
Table table_from(const py::dict& dict);

/// The component `name` with the fields of `dict`.
Named named_from(const std::string& name, const py::dict& dict);

py::object object_from(const Value& value);
py::dict dict_from(const Table& table);
py::dict dict_from(const FieldInfo& field);
py::dict dict_from(const EntryInfo& entry);

/// The arguments of collegium.Decision.
py::dict dict_from(const route::Decision& decision);

/// [(name, weighted scalar with gradient, raw number)].
py::list list_from(const std::vector<route::LossTerm>& losses);

}  // namespace collegium::python
