#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "python/core/convert.h"

#include <cmath>

namespace collegium::python {
namespace {

const Origin& python_origin() {
  static const Origin origin = {.file = std::make_shared<const std::string>("Python"), .line = 0};
  return origin;
}

Value value_from(const py::handle& object, const std::string& path);

Table table_at(const py::dict& dict, const std::string& path) {
  Table out;
  out.origin = python_origin();
  for (const auto& [key, value] : dict) {
    if (!py::isinstance<py::str>(key))
      throw Error(ErrorKind::usage, text(path.empty() ? "configuration" : path, ": keys must be strings, got ",
                                         py::repr(key).cast<std::string>()));
    const auto name = key.cast<std::string>();
    out.set(name, value_from(value, path.empty() ? name : text(path, ".", name)));
  }
  return out;
}

List list_at(const py::sequence& sequence, const std::string& path) {
  List out;
  for (size_t i = 0; i < sequence.size(); ++i) out.push_back(value_from(sequence[i], text(path, "[", i, "]")));
  return out;
}

Value plain_value_from(const py::handle& object, const std::string& path) {
  if (py::isinstance<py::bool_>(object)) return object.cast<bool>();
  if (py::isinstance<py::str>(object)) return object.cast<std::string>();
  if (py::isinstance<py::dict>(object)) return table_at(py::reinterpret_borrow<py::dict>(object), path);
  if (py::isinstance<py::list>(object) || py::isinstance<py::tuple>(object))
    return list_at(py::reinterpret_borrow<py::sequence>(object), path);
  if (py::isinstance<py::float_>(object)) return object.cast<double>();
  // Whole numbers of any library (NumPy's too) say that they are one.
  if (PyIndex_Check(object.ptr())) {
    const auto whole = py::reinterpret_steal<py::object>(PyNumber_Index(object.ptr()));
    if (!whole) throw py::error_already_set();
    int overflow = 0;
    const auto number = PyLong_AsLongLongAndOverflow(whole.ptr(), &overflow);
    require(overflow == 0, path, ": ", py::repr(object).cast<std::string>(), " does not fit into 64 bits");
    return static_cast<int64_t>(number);
  }
  if (!py::isinstance<py::none>(object) && py::hasattr(object, "__float__"))
    return py::float_(py::reinterpret_borrow<py::object>(object)).cast<double>();
  throw Error(ErrorKind::usage,
              text(path, ": a value must be a bool, int, float, str, list, tuple or dict, got ",
                   py::repr(py::type::handle_of(object)).cast<std::string>()),
              py::isinstance<py::none>(object) ? "leave the key out to get its default" : "");
}

Value value_from(const py::handle& object, const std::string& path) {
  auto value = plain_value_from(object, path);
  value.origin = python_origin();
  return value;
}

py::object finite_or_none(double number) {
  return std::isfinite(number) ? py::object(py::float_(number)) : py::none();
}

py::list strings_from(const std::vector<std::string>& all) {
  py::list out;
  for (const auto& s : all) out.append(s);
  return out;
}

py::list fields_from(const std::vector<FieldInfo>& fields) {
  py::list out;
  for (const auto& field : fields) out.append(dict_from(field));
  return out;
}

py::object tensor_or_none(const at::Tensor& tensor) {
  return tensor.defined() ? py::cast(tensor) : py::none();
}

}  // namespace

Table table_from(const py::dict& dict) {
  return table_at(dict, "");
}

Named named_from(const std::string& name, const py::dict& dict) {
  return {.name = name, .fields = table_from(dict), .path = "", .origin = python_origin()};
}

py::object object_from(const Value& value) {
  return std::visit(
      [](const auto& v) -> py::object {
        using T = std::decay_t<decltype(v)>;
        if constexpr (std::is_same_v<T, Table>) {
          return dict_from(v);
        } else if constexpr (std::is_same_v<T, List>) {
          py::list out;
          for (const auto& element : v) out.append(object_from(element));
          return out;
        } else {
          return py::cast(v);
        }
      },
      value.data);
}

py::dict dict_from(const Table& table) {
  py::dict out;
  for (const auto& item : table.items) out[py::str(item.key)] = object_from(item.value);
  return out;
}

py::dict dict_from(const FieldInfo& field) {
  py::dict out;
  out["name"] = field.name, out["type"] = field.type, out["default"] = field.default_text;
  out["unit"] = field.unit, out["help"] = field.help, out["catalogue"] = field.catalogue;
  out["min"] = finite_or_none(field.min), out["max"] = finite_or_none(field.max);
  out["choices"] = strings_from(field.choices), out["fields"] = fields_from(field.children);
  return out;
}

py::dict dict_from(const EntryInfo& entry) {
  py::dict out, claims;
  // A router with several balancers has several claims of one name.
  for (const auto& [name, claim] : entry.claims) {
    const py::str key(name);
    if (!claims.contains(key))
      claims[key] = claim;
    else
      claims[key] = text(claims[key].cast<std::string>(), ", ", claim);
  }
  out["catalogue"] = entry.catalogue, out["name"] = entry.name, out["paper"] = entry.paper;
  out["source"] = entry.source, out["taxonomy"] = entry.taxonomy, out["summary"] = entry.summary;
  out["equation"] = entry.equation;
  out["fields"] = fields_from(entry.fields), out["claims"] = claims;
  return out;
}

py::dict dict_from(const route::Decision& d) {
  py::dict out;
  out["n_tokens"] = d.n_tokens(), out["n_experts"] = d.n_experts();
  out["token"] = tensor_or_none(d.token_R()), out["expert"] = tensor_or_none(d.expert_R());
  out["gate"] = tensor_or_none(d.gate_R()), out["rank"] = tensor_or_none(d.rank_R());
  out["slot"] = tensor_or_none(d.slot_R()), out["score"] = tensor_or_none(d.score_R());
  out["margin"] = tensor_or_none(d.margin_R()), out["offset"] = tensor_or_none(d.offset_E1());
  py::dict gone;
  const auto& q = d.dropped();
  gone["token"] = tensor_or_none(q.token_Q), gone["expert"] = tensor_or_none(q.expert_Q);
  gone["rank"] = tensor_or_none(q.rank_Q), gone["score"] = tensor_or_none(q.score_Q);
  gone["margin"] = tensor_or_none(q.margin_Q), gone["reason"] = tensor_or_none(q.reason_Q);
  out["dropped"] = gone;
  return out;
}

py::list list_from(const std::vector<route::LossTerm>& losses) {
  py::list out;
  for (const auto& term : losses) out.append(py::make_tuple(term.name, term.value, term.raw));
  return out;
}

}  // namespace collegium::python
