#include "collegium/base/value.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>

#include "collegium/base/error.h"

namespace collegium {

std::string Origin::describe() const {
  if (!file || file->empty()) return {};
  return line > 0 ? text(*file, ":", line) : *file;
}

const Value* Table::find(std::string_view key) const {
  for (const auto& item : items)
    if (item.key == key) return &item.value;
  return nullptr;
}

Value* Table::find(std::string_view key) {
  return const_cast<Value*>(static_cast<const Table*>(this)->find(key));
}

void Table::set(std::string key, Value value) {
  if (auto* existing = find(key))
    *existing = std::move(value);
  else
    items.push_back({std::move(key), std::move(value)});
}

bool Table::operator==(const Table& other) const {
  if (items.size() != other.items.size()) return false;
  return std::all_of(items.begin(), items.end(), [&](const Item& item) {
    const auto* found = other.find(item.key);
    return found && *found == item.value;
  });
}

bool Value::operator==(const Value& other) const {
  return data == other.data;
}

std::string_view Value::type_name() const {
  constexpr std::string_view names[] = {"boolean", "integer", "float", "string", "list", "table"};
  return names[data.index()];
}

Table table(std::initializer_list<std::pair<std::string, Value>> pairs) {
  Table out;
  for (const auto& [key, value] : pairs) out.set(key, value);
  return out;
}

Table merged(Table base, const Table& over) {
  for (const auto& [key, value] : over.items) {
    auto* below = base.find(key);
    const auto* new_table = std::get_if<Table>(&value.data);
    auto* old_table = below ? std::get_if<Table>(&below->data) : nullptr;
    if (!new_table || !old_table) {
      base.set(key, value);
      continue;
    }
    const auto* new_name = new_table->find("name");
    const auto* old_name = old_table->find("name");
    const bool is_other_mechanism = new_name && old_name && !(*new_name == *old_name);
    Value combined = is_other_mechanism ? *new_table : merged(*old_table, *new_table);
    combined.origin = value.origin;
    base.set(key, std::move(combined));
  }
  return base;
}

void set_path(Table& root, std::string_view path, Value value) {
  const auto dot = path.find('.');
  if (dot == std::string_view::npos) return root.set(std::string(path), std::move(value));
  const std::string head(path.substr(0, dot));
  auto* below = root.find(head);
  if (!below || !std::holds_alternative<Table>(below->data)) {
    Value fresh{Table{}};
    fresh.origin = value.origin;
    root.set(head, std::move(fresh));
    below = root.find(head);
  }
  set_path(std::get<Table>(below->data), path.substr(dot + 1), std::move(value));
}

const Value* find_path(const Table& root, std::string_view path) {
  const auto dot = path.find('.');
  const auto* found = root.find(path.substr(0, dot));
  if (!found || dot == std::string_view::npos) return found;
  const auto* below = std::get_if<Table>(&found->data);
  return below ? find_path(*below, path.substr(dot + 1)) : nullptr;
}

namespace {

bool is_table_list(const Value& value) {
  const auto* list = std::get_if<List>(&value.data);
  return list && !list->empty() &&
         std::all_of(list->begin(), list->end(), [](const Value& v) { return std::holds_alternative<Table>(v.data); });
}

std::string quoted(const std::string& word) {
  std::string out = "\"";
  for (const unsigned char c : word) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\t') {
      out += "\\t";
    } else if (c < 0x20 || c == 0x7f) {
      constexpr char digits[] = "0123456789ABCDEF";
      out += "\\u00";
      out += digits[c >> 4];
      out += digits[c & 15];
    } else {
      out += static_cast<char>(c);
    }
  }
  return out + "\"";
}

std::string key_text(const std::string& key) {
  const bool bare = !key.empty() && std::all_of(key.begin(), key.end(), [](unsigned char c) {
    return std::isalnum(c) || c == '_' || c == '-';
  });
  return bare ? key : quoted(key);
}

std::string number(double v) {
  if (std::isnan(v)) return "nan";
  if (std::isinf(v)) return v > 0 ? "inf" : "-inf";
  char buffer[40];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, v).ptr;  // shortest text that reads back equal
  std::string out(buffer, end);
  if (out.find_first_of(".e") == std::string::npos) out += ".0";
  return out;
}

void write_table(const Table& t, const std::string& path, std::string& out) {
  for (const auto& [key, value] : t.items)
    if (!std::holds_alternative<Table>(value.data) && !is_table_list(value))
      out += key_text(key) + " = " + to_toml(value) + "\n";
  for (const auto& [key, value] : t.items) {
    const auto below = path.empty() ? key_text(key) : path + "." + key_text(key);
    if (const auto* inner = std::get_if<Table>(&value.data)) {
      out += "\n[" + below + "]\n";
      write_table(*inner, below, out);
    } else if (is_table_list(value)) {
      for (const auto& element : std::get<List>(value.data)) {
        out += "\n[[" + below + "]]\n";
        write_table(std::get<Table>(element.data), below, out);
      }
    }
  }
}

void flatten(const Value& value, const std::string& path, std::map<std::string, std::string>& out) {
  if (const auto* t = std::get_if<Table>(&value.data)) {
    for (const auto& [key, inner] : t->items) flatten(inner, path.empty() ? key : path + "." + key, out);
  } else if (is_table_list(value)) {
    const auto& list = std::get<List>(value.data);
    for (size_t i = 0; i < list.size(); ++i) flatten(list[i], text(path, "[", i, "]"), out);
  } else {
    out[path] = to_toml(value);
  }
}

}  // namespace

std::string to_toml(const Value& value) {
  struct Writer {
    std::string operator()(bool v) const { return v ? "true" : "false"; }
    std::string operator()(int64_t v) const { return std::to_string(v); }
    std::string operator()(double v) const { return number(v); }
    std::string operator()(const std::string& v) const { return quoted(v); }
    std::string operator()(const List& v) const {
      std::string out = "[";
      for (size_t i = 0; i < v.size(); ++i) out += (i ? ", " : "") + to_toml(v[i]);
      return out + "]";
    }
    std::string operator()(const Table& v) const {
      std::string out = "{";
      for (size_t i = 0; i < v.items.size(); ++i)
        out += (i ? ", " : " ") + key_text(v.items[i].key) + " = " + to_toml(v.items[i].value);
      return out + (v.items.empty() ? "}" : " }");
    }
  };
  return std::visit(Writer{}, value.data);
}

std::string to_toml(const Table& root) {
  std::string out;
  write_table(root, "", out);
  return out;
}

std::vector<std::string> differences(const Table& before, const Table& after) {
  std::map<std::string, std::string> a, b;
  flatten(Value(before), "", a);
  flatten(Value(after), "", b);
  std::vector<std::string> out;
  for (const auto& [path, value] : a) {
    const auto found = b.find(path);
    if (found == b.end())
      out.push_back(path + ": " + value + " -> (gone)");
    else if (found->second != value)
      out.push_back(path + ": " + value + " -> " + found->second);
  }
  for (const auto& [path, value] : b)
    if (!a.count(path)) out.push_back(path + ": (not there) -> " + value);
  return out;
}

}  // namespace collegium
