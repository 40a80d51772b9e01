// Configurations are plain structs with one `visit`; reading, writing, listing and checking derive from it.
//
//   struct Config {
//     int64_t k = 2;
//     void visit(Fields& field) { field("k", k, {.help = "experts per token", .unit = "experts", .min = 1}); }
//   };
//
// `read_config` is strict: an unknown key, a wrong type or a value out of range is an Error that names the
// file, the line, the dotted path and the nearest known key.
#pragma once
#include <concepts>
#include <functional>
#include <limits>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "collegium/base/error.h"
#include "collegium/base/value.h"

namespace collegium {

/// A mechanism chosen by name, with its own fields still unread: what `[model.moe.router]` becomes.
struct Named {
  std::string name;
  Table fields;      ///< without the key `name`
  std::string path;  ///< where it stands in the recipe, for errors; may be empty
  Origin origin;
  bool operator==(const Named& other) const { return name == other.name && fields == other.fields; }
};

/// What a reader of the help text needs to know of one field.
struct FieldOptions {
  std::string_view help;
  std::string_view unit = "";
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
  std::string_view catalogue = "";  ///< for Named fields: which list the name is from, e.g. "routers"
};

/// One field as help, docs, Python and completion show it.
struct FieldInfo {
  std::string name, type, default_text, help, unit, catalogue;
  double min = -std::numeric_limits<double>::infinity(), max = std::numeric_limits<double>::infinity();
  std::vector<std::string> choices;  ///< for enums
  std::vector<FieldInfo> children;   ///< for nested structs
};

class Fields;
template <class C>
concept Configurable = std::is_class_v<C> && requires(C c, Fields& f) { c.visit(f); };

/// An enum is a field type once `enum_names(E)`, found by argument-dependent lookup, lists its names in order.
template <class E>
concept NamedEnum = std::is_enum_v<E> && requires(E e) {
  { enum_names(e) } -> std::convertible_to<std::span<const std::string_view>>;
};

/// The visitor that a config's `visit` talks to.
class Fields {
 public:
  virtual ~Fields() = default;
  virtual void operator()(std::string_view name, bool& value, const FieldOptions& options) = 0;
  virtual void operator()(std::string_view name, int64_t& value, const FieldOptions& options) = 0;
  virtual void operator()(std::string_view name, double& value, const FieldOptions& options) = 0;
  virtual void operator()(std::string_view name, std::string& value, const FieldOptions& options) = 0;
  virtual void operator()(std::string_view name, std::vector<int64_t>& value, const FieldOptions& options) = 0;
  virtual void operator()(std::string_view name, std::vector<double>& value, const FieldOptions& options) = 0;
  virtual void operator()(std::string_view name, std::vector<std::string>& value, const FieldOptions& options) = 0;
  virtual void operator()(std::string_view name, Named& value, const FieldOptions& options) = 0;
  virtual void operator()(std::string_view name, std::vector<Named>& value, const FieldOptions& options) = 0;
  virtual void operator()(std::string_view name, Table& value, const FieldOptions& options) = 0;

  template <NamedEnum E>
  void operator()(std::string_view name, E& value, const FieldOptions& options) {
    auto index = static_cast<size_t>(value);
    choice(name, index, enum_names(value), options);
    value = static_cast<E>(index);
  }
  template <Configurable C>
  void operator()(std::string_view name, C& value, const FieldOptions& options) {
    if (!enter(name, options)) return;
    value.visit(*this);
    leave();
  }

 protected:
  virtual void choice(std::string_view name, size_t& index, std::span<const std::string_view> names,
                      const FieldOptions& options) = 0;
  virtual bool enter(std::string_view name, const FieldOptions& options) = 0;
  virtual void leave() = 0;
};

namespace detail {
void read_fields(const Table& from, std::string_view path, const std::function<void(Fields&)>& visit);
Table write_fields(const std::function<void(Fields&)>& visit);
std::vector<FieldInfo> list_fields(const std::function<void(Fields&)>& visit);
}  // namespace detail

/// Reads `from` over the defaults of C. `path` stands before each key in errors ("model.moe.router").
template <Configurable C>
C read_config(const Table& from, std::string_view path = "", C config = {}) {
  detail::read_fields(from, path, [&](Fields& f) { config.visit(f); });
  return config;
}

/// Every field of `config` with its value; reads back equal.
template <Configurable C>
Table write_config(C config) {
  return detail::write_fields([&](Fields& f) { config.visit(f); });
}

/// Every field of C with type, default, help and unit.
template <Configurable C>
std::vector<FieldInfo> list_config() {
  C config;
  return detail::list_fields([&](Fields& f) { config.visit(f); });
}

/// Reads a component: a string ("switch") or a table with a `name`.
Named read_named(const Value& value, std::string_view path);

/// The component as a table again, `name` first.
Table to_table(const Named& named);

/// An Error of kind usage: "recipe.toml:12: model.router.k: must be at least 1, got 0".
Error config_error(const Origin& origin, std::string_view path, std::string_view problem);

}  // namespace collegium
