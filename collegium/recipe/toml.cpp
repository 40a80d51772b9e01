#include "collegium/recipe/toml.h"

#include <toml++/toml.h>
#include <algorithm>
#include <fstream>
#include <sstream>

#include "collegium/base/error.h"

namespace collegium {
namespace {

using File = std::shared_ptr<const std::string>;

Value convert_node(const toml::node& node, const File& file);

Table convert_table(const toml::table& from, const File& file) {
  // toml++ sorts keys; the order in which they were written is the one people expect back.
  std::vector<std::pair<const toml::key*, const toml::node*>> ordered;
  for (const auto& [key, node] : from) ordered.emplace_back(&key, &node);
  std::stable_sort(ordered.begin(), ordered.end(), [](const auto& a, const auto& b) {
    const auto place = [](const toml::key* k) {
      return std::make_pair(k->source().begin.line, k->source().begin.column);
    };
    return place(a.first) < place(b.first);
  });
  Table out;
  out.origin = {file, static_cast<int>(from.source().begin.line)};
  for (const auto& [key, node] : ordered) {
    auto value = convert_node(*node, file);
    // A table's own position is its header; the key's is the line that a reader looks for.
    value.origin.line = static_cast<int>(key->source().begin.line);
    out.items.push_back({std::string(key->str()), std::move(value)});
  }
  return out;
}

Value convert_node(const toml::node& node, const File& file) {
  Value out;
  if (const auto* t = node.as_table())
    out = Value(convert_table(*t, file));
  else if (const auto* a = node.as_array()) {
    List list;
    for (const auto& element : *a) list.push_back(convert_node(element, file));
    out = Value(std::move(list));
  } else if (const auto* b = node.as_boolean())
    out = Value(b->get());
  else if (const auto* i = node.as_integer())
    out = Value(i->get());
  else if (const auto* d = node.as_floating_point())
    out = Value(d->get());
  else if (const auto* s = node.as_string())
    out = Value(s->get());
  else
    throw Error(ErrorKind::usage, text(*file, ":", node.source().begin.line, ": dates and times have no use here"),
                "write it as a string");
  out.origin = {file, static_cast<int>(node.source().begin.line)};
  return out;
}

}  // namespace

Table parse_toml(std::string_view toml_text, const std::string& shown) {
  const auto file = std::make_shared<const std::string>(shown);
  try {
    return convert_table(toml::parse(toml_text, shown), file);
  } catch (const toml::parse_error& e) {
    const auto& at = e.source().begin;
    throw Error(ErrorKind::usage, text(shown, ":", at.line, ":", at.column, ": not TOML: ", e.description()));
  }
}

Table read_toml(const std::filesystem::path& path, std::string shown) {
  if (shown.empty()) shown = path.string();
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) {
    std::vector<std::string> beside;
    const auto folder = path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
    for (const auto& entry : std::filesystem::directory_iterator(folder, ignored))
      if (entry.path().extension() == ".toml") beside.push_back(entry.path().filename().string());
    const auto near = nearest(path.filename().string(), beside);
    throw Error(ErrorKind::usage, text(shown, ": there is no such file"),
                near.empty() ? std::string("recipes lie below recipes/")
                             : text("did you mean ", (folder / near).string(), "?"));
  }
  if (std::filesystem::is_directory(path))
    fail(ErrorKind::usage, shown, ": this is a folder, a recipe is a .toml file");
  std::ifstream in(path, std::ios::binary);
  std::ostringstream content;
  content << in.rdbuf();
  if (!in) fail(ErrorKind::io, shown, ": cannot be read");
  return parse_toml(content.str(), shown);
}

void apply_set(Table& root, std::string_view assignment) {
  const auto equals = assignment.find('=');
  require(equals != std::string_view::npos && equals > 0, "--set ", assignment,
          ": write it as path=value, for example "
          "--set train.steps=100");
  const auto trim = [](std::string_view s) {
    while (!s.empty() && s.front() == ' ') s.remove_prefix(1);
    while (!s.empty() && s.back() == ' ') s.remove_suffix(1);
    return s;
  };
  const auto path = trim(assignment.substr(0, equals)), raw = trim(assignment.substr(equals + 1));
  require(!path.starts_with('.') && !path.ends_with('.') && path.find("..") == std::string_view::npos, "--set ",
          assignment, ": '", path, "' is no path: its parts have one dot between them, as in train.steps");
  const auto from = std::make_shared<const std::string>(text("--set ", assignment));
  Value value;
  try {
    const auto parsed = toml::parse(text("value = ", raw, "\n"));
    value = convert_node(*parsed.get("value"), from);
  } catch (const toml::parse_error& problem) {
    // A bare word is a string; what begins as a table, list or string is meant as one.
    require(raw.empty() || std::string_view("{['\"").find(raw.front()) == std::string_view::npos, "--set ", assignment,
            ": ", problem.description());
    value = Value(std::string(raw));
  }
  value.origin = {from, 0};
  const auto* before = find_path(root, path);
  const bool is_component = before && std::holds_alternative<Table>(before->data) &&
                            std::get<Table>(before->data).find("name") &&
                            std::holds_alternative<std::string>(value.data);
  if (is_component) {
    auto named = table({{"name", std::get<std::string>(value.data)}});
    const auto origin = value.origin;
    value = std::get<Table>(before->data).find("name")->data == value.data ? *before : Value(std::move(named));
    value.origin = origin;
  }
  set_path(root, path, std::move(value));
}

}  // namespace collegium
