// Plain data that configurations are read from: what a TOML file, Python keywords or `--set` become.
//
// A value remembers where it was written, so that an error can name the file and the line.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace collegium {

/// Where a value was written. `file` may be a path, "--set", "Python" or "" (a default); line 0 = none.
struct Origin {
  std::shared_ptr<const std::string> file;
  int line = 0;
  std::string describe() const;  ///< "path:12", "--set", or "" when nothing is known
};

struct Value;
struct Item;

/// Key-value pairs in the order in which they were written.
struct Table {
  std::vector<Item> items;
  Origin origin;

  const Value* find(std::string_view key) const;
  Value* find(std::string_view key);
  /// Adds the key, or replaces its value in place.
  void set(std::string key, Value value);
  bool empty() const { return items.empty(); }
  bool operator==(const Table& other) const;  ///< same keys and values, origins ignored
};

using List = std::vector<Value>;

/// One configuration value. Integers and floats stay apart, as in TOML.
struct Value {
  std::variant<bool, int64_t, double, std::string, List, Table> data;
  Origin origin;

  // Defined below, where Item is complete: before that, clang rejects what libstdc++ needs of the variant.
  Value();
  Value(bool v);
  Value(int v);
  Value(int64_t v);
  Value(double v);
  Value(const char* v);
  Value(std::string v);
  Value(List v);
  Value(Table v);

  bool operator==(const Value& other) const;
  std::string_view type_name() const;  ///< "boolean", "integer", "float", "string", "list", "table"
};

struct Item {
  std::string key;
  Value value;
};

inline Value::Value() : data(false) {}
inline Value::Value(bool v) : data(v) {}
inline Value::Value(int v) : data(int64_t{v}) {}
inline Value::Value(int64_t v) : data(v) {}
inline Value::Value(double v) : data(v) {}
inline Value::Value(const char* v) : data(std::string(v)) {}
inline Value::Value(std::string v) : data(std::move(v)) {}
inline Value::Value(List v) : data(std::move(v)) {}
inline Value::Value(Table v) : data(std::move(v)) {}

/// Builds a table from pairs: table({{"k", 2}, {"name", "top_k"}}).
Table table(std::initializer_list<std::pair<std::string, Value>> pairs);

/// Lays `over` over `base`: tables merge key by key, everything else replaces. A table that brings its own
/// `name` different from the one below replaces the whole table: its fields belong to another mechanism.
Table merged(Table base, const Table& over);

/// Sets `path` ("model.moe.router.k") in `root`, creating the tables on the way.
void set_path(Table& root, std::string_view path, Value value);

/// Finds `path` in `root`; nullptr when it is not there.
const Value* find_path(const Table& root, std::string_view path);

/// TOML text that reads back to an equal table: scalars first, then [tables] and [[lists of tables]].
std::string to_toml(const Table& root);

/// A value as it would be written on one TOML line.
std::string to_toml(const Value& value);

/// One line per leaf whose value differs: "train.lr: 0.001 -> 0.002". Empty when equal.
std::vector<std::string> differences(const Table& before, const Table& after);

}  // namespace collegium
