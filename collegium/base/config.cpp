#include "collegium/base/config.h"

#include <algorithm>
#include <cmath>

namespace collegium {
namespace {

std::string dotted(std::string_view path, std::string_view name) {
  return path.empty() ? std::string(name) : text(path, ".", name);
}

std::string bounds_text(const FieldOptions& o) {
  if (std::isfinite(o.min) && std::isfinite(o.max)) return text("must be in [", o.min, ", ", o.max, "]");
  if (std::isfinite(o.min)) return text("must be at least ", o.min);
  return text("must be at most ", o.max);
}

class Reader final : public Fields {
 public:
  Reader(const Table& from, std::string_view path) { levels_.push_back({&from, std::string(path), {}}); }

  void operator()(std::string_view n, bool& v, const FieldOptions&) override { scalar(n, v, "a boolean"); }
  void operator()(std::string_view n, int64_t& v, const FieldOptions& o) override {
    if (scalar(n, v, "an integer")) check(n, static_cast<double>(v), o);
  }
  void operator()(std::string_view n, double& v, const FieldOptions& o) override {
    const auto* given = take(n);
    if (!given) return;
    v = as_double(*given, dotted(top().path, n));
    check(n, v, o);
  }
  void operator()(std::string_view n, std::string& v, const FieldOptions&) override { scalar(n, v, "a string"); }
  void operator()(std::string_view n, std::vector<int64_t>& v, const FieldOptions&) override { list(n, v, "integers"); }
  void operator()(std::string_view n, std::vector<std::string>& v, const FieldOptions&) override {
    list(n, v, "strings");
  }
  void operator()(std::string_view n, std::vector<double>& v, const FieldOptions&) override {
    const auto* given = take(n);
    if (!given) return;
    v.clear();
    for (const auto& element : as_list(*given, n, "numbers")) v.push_back(as_double(element, dotted(top().path, n)));
  }
  void operator()(std::string_view n, Named& v, const FieldOptions&) override {
    if (const auto* given = take(n)) v = read_over(*given, dotted(top().path, n), v);
  }
  void operator()(std::string_view n, std::vector<Named>& v, const FieldOptions&) override {
    const auto* given = take(n);
    if (!given) return;
    v.clear();
    const auto path = dotted(top().path, n);
    for (const auto& element : as_list(*given, n, "names or tables"))
      v.push_back(read_named(element, text(path, "[", v.size(), "]")));
  }
  void operator()(std::string_view n, Table& v, const FieldOptions&) override { scalar(n, v, "a table"); }

  void finish() {
    const auto& level = top();
    for (const auto& [key, value] : level.from->items) {
      if (std::find(level.known.begin(), level.known.end(), key) != level.known.end()) continue;
      std::string problem = "unknown key";
      const auto near = nearest(key, level.known);
      if (!near.empty()) problem += text("; did you mean '", near, "'?");
      problem +=
          level.known.empty() ? text(" (there are no keys here)") : text(" (known here: ", join(level.known), ")");
      throw config_error(value.origin, dotted(level.path, key), problem);
    }
  }

 protected:
  void choice(std::string_view n, size_t& index, std::span<const std::string_view> names,
              const FieldOptions&) override {
    std::string word(names[index]);
    if (!scalar(n, word, "a string")) return;
    const auto found = std::find(names.begin(), names.end(), word);
    if (found == names.end()) {
      const std::vector<std::string> all(names.begin(), names.end());
      const auto near = nearest(word, all);
      throw config_error(
          top().from->find(n)->origin, dotted(top().path, n),
          text("'", word, "' is not one of ", join(all), near.empty() ? "" : text("; did you mean '", near, "'?")));
    }
    index = static_cast<size_t>(found - names.begin());
  }
  bool enter(std::string_view n, const FieldOptions&) override {
    const auto* given = take(n);
    if (!given) return false;
    const auto path = dotted(top().path, n);
    const auto* inner = std::get_if<Table>(&given->data);
    if (!inner) throw config_error(given->origin, path, text("must be a table, got ", given->type_name()));
    levels_.push_back({inner, path, {}});
    return true;
  }
  void leave() override {
    finish();
    levels_.pop_back();
  }

 private:
  struct Level {
    const Table* from;
    std::string path;
    std::vector<std::string> known;
  };
  Level& top() { return levels_.back(); }

  const Value* take(std::string_view name) {
    top().known.emplace_back(name);
    return top().from->find(name);
  }
  template <class T>
  bool scalar(std::string_view n, T& v, std::string_view wanted) {
    const auto* given = take(n);
    if (!given) return false;
    const auto* typed = std::get_if<T>(&given->data);
    if (!typed)
      throw config_error(given->origin, dotted(top().path, n),
                         text("must be ", wanted, ", got ", given->type_name(), " ", to_toml(*given)));
    v = *typed;
    return true;
  }
  // A whole number is a fine way to write a float; the other way round would lose digits.
  double as_double(const Value& value, const std::string& path) {
    if (const auto* d = std::get_if<double>(&value.data)) {
      if (!std::isfinite(*d))
        throw config_error(value.origin, path, text("must be a finite number, got ", to_toml(value)));
      return *d;
    }
    if (const auto* i = std::get_if<int64_t>(&value.data)) return static_cast<double>(*i);
    throw config_error(value.origin, path, text("must be a number, got ", value.type_name(), " ", to_toml(value)));
  }
  const List& as_list(const Value& value, std::string_view n, std::string_view of) {
    const auto* typed = std::get_if<List>(&value.data);
    if (!typed)
      throw config_error(value.origin, dotted(top().path, n),
                         text("must be a list of ", of, ", got ", value.type_name()));
    return *typed;
  }
  template <class T>
  void list(std::string_view n, std::vector<T>& v, std::string_view of) {
    const auto* given = take(n);
    if (!given) return;
    v.clear();
    for (const auto& element : as_list(*given, n, of)) {
      const auto* typed = std::get_if<T>(&element.data);
      if (!typed)
        throw config_error(element.origin, dotted(top().path, n),
                           text("must be a list of ", of, ", got ", to_toml(*given)));
      v.push_back(*typed);
    }
  }
  void check(std::string_view n, double v, const FieldOptions& o) {
    if (v >= o.min && v <= o.max) return;
    const auto* given = top().from->find(n);
    throw config_error(given->origin, dotted(top().path, n), text(bounds_text(o), ", got ", to_toml(*given)));
  }
  // A table without a name keeps the default's name: [router] k = 2 refines the default router.
  static Named read_over(const Value& value, const std::string& path, const Named& fallback) {
    const auto* t = std::get_if<Table>(&value.data);
    if (!t || t->find("name") || fallback.name.empty()) return read_named(value, path);
    return {fallback.name, merged(fallback.fields, *t), path, value.origin};
  }

  std::vector<Level> levels_;
};

class Writer final : public Fields {
 public:
  Table take() { return std::move(levels_.front().second); }

  void operator()(std::string_view n, bool& v, const FieldOptions&) override { put(n, v); }
  void operator()(std::string_view n, int64_t& v, const FieldOptions&) override { put(n, v); }
  void operator()(std::string_view n, double& v, const FieldOptions&) override { put(n, v); }
  void operator()(std::string_view n, std::string& v, const FieldOptions&) override { put(n, v); }
  void operator()(std::string_view n, std::vector<int64_t>& v, const FieldOptions&) override { put_list(n, v); }
  void operator()(std::string_view n, std::vector<double>& v, const FieldOptions&) override { put_list(n, v); }
  void operator()(std::string_view n, std::vector<std::string>& v, const FieldOptions&) override { put_list(n, v); }
  void operator()(std::string_view n, Named& v, const FieldOptions&) override {
    if (!v.name.empty()) put(n, to_table(v));
  }
  void operator()(std::string_view n, std::vector<Named>& v, const FieldOptions&) override {
    List list;
    for (const auto& named : v) list.emplace_back(to_table(named));
    put(n, std::move(list));
  }
  void operator()(std::string_view n, Table& v, const FieldOptions&) override { put(n, v); }

 protected:
  void choice(std::string_view n, size_t& i, std::span<const std::string_view> names, const FieldOptions&) override {
    put(n, std::string(names[i]));
  }
  bool enter(std::string_view n, const FieldOptions&) override {
    levels_.emplace_back(std::string(n), Table{});
    return true;
  }
  void leave() override {
    auto [name, t] = std::move(levels_.back());
    levels_.pop_back();
    put(name, std::move(t));
  }

 private:
  void put(std::string_view n, Value v) { levels_.back().second.set(std::string(n), std::move(v)); }
  template <class T>
  void put_list(std::string_view n, const std::vector<T>& v) {
    put(n, List(v.begin(), v.end()));
  }
  std::vector<std::pair<std::string, Table>> levels_ = {{"", {}}};
};

class Lister final : public Fields {
 public:
  std::vector<FieldInfo> take() { return std::move(levels_.front()); }

  void operator()(std::string_view n, bool& v, const FieldOptions& o) override { put(n, "boolean", v, o); }
  void operator()(std::string_view n, int64_t& v, const FieldOptions& o) override { put(n, "integer", v, o); }
  void operator()(std::string_view n, double& v, const FieldOptions& o) override { put(n, "float", v, o); }
  void operator()(std::string_view n, std::string& v, const FieldOptions& o) override { put(n, "string", v, o); }
  void operator()(std::string_view n, std::vector<int64_t>& v, const FieldOptions& o) override {
    put(n, "list of integers", List(v.begin(), v.end()), o);
  }
  void operator()(std::string_view n, std::vector<double>& v, const FieldOptions& o) override {
    put(n, "list of floats", List(v.begin(), v.end()), o);
  }
  void operator()(std::string_view n, std::vector<std::string>& v, const FieldOptions& o) override {
    put(n, "list of strings", List(v.begin(), v.end()), o);
  }
  void operator()(std::string_view n, Named& v, const FieldOptions& o) override {
    put(n, "component", v.fields.empty() ? Value(v.name) : Value(to_table(v)), o);
  }
  void operator()(std::string_view n, std::vector<Named>& v, const FieldOptions& o) override {
    List list;
    for (const auto& named : v) list.push_back(named.fields.empty() ? Value(named.name) : Value(to_table(named)));
    put(n, "list of components", std::move(list), o);
  }
  void operator()(std::string_view n, Table& v, const FieldOptions& o) override { put(n, "table", v, o); }

 protected:
  void choice(std::string_view n, size_t& i, std::span<const std::string_view> names, const FieldOptions& o) override {
    put(n, "choice", std::string(names[i]), o);
    levels_.back().back().choices.assign(names.begin(), names.end());
  }
  bool enter(std::string_view n, const FieldOptions& o) override {
    put(n, "table", Table{}, o);
    levels_.back().back().default_text.clear();
    levels_.emplace_back();
    return true;
  }
  void leave() override {
    auto children = std::move(levels_.back());
    levels_.pop_back();
    levels_.back().back().children = std::move(children);
  }

 private:
  void put(std::string_view n, std::string_view type, const Value& v, const FieldOptions& o) {
    FieldInfo info;
    info.name = n, info.type = type, info.default_text = to_toml(v), info.help = o.help, info.unit = o.unit;
    info.catalogue = o.catalogue, info.min = o.min, info.max = o.max;
    levels_.back().push_back(std::move(info));
  }
  std::vector<std::vector<FieldInfo>> levels_ = {{}};
};

}  // namespace

namespace detail {

void read_fields(const Table& from, std::string_view path, const std::function<void(Fields&)>& visit) {
  Reader reader(from, path);
  visit(reader);
  reader.finish();
}

Table write_fields(const std::function<void(Fields&)>& visit) {
  Writer writer;
  visit(writer);
  return writer.take();
}

std::vector<FieldInfo> list_fields(const std::function<void(Fields&)>& visit) {
  Lister lister;
  visit(lister);
  return lister.take();
}

}  // namespace detail

Named read_named(const Value& value, std::string_view path) {
  if (const auto* name = std::get_if<std::string>(&value.data)) return {*name, {}, std::string(path), value.origin};
  const auto* t = std::get_if<Table>(&value.data);
  if (!t)
    throw config_error(value.origin, path, text("must be a name or a table with a name, got ", value.type_name()));
  const auto* name = t->find("name");
  if (!name) throw config_error(value.origin, path, "needs the key 'name'");
  const auto* word = std::get_if<std::string>(&name->data);
  if (!word) throw config_error(name->origin, text(path, ".name"), text("must be a string, got ", name->type_name()));
  Named out{*word, {}, std::string(path), value.origin};
  for (const auto& item : t->items)
    if (item.key != "name") out.fields.items.push_back(item);
  return out;
}

Table to_table(const Named& named) {
  Table out;
  out.set("name", named.name);
  for (const auto& item : named.fields.items) out.items.push_back(item);
  return out;
}

Error config_error(const Origin& origin, std::string_view path, std::string_view problem) {
  const auto where = origin.describe();
  return Error(ErrorKind::usage, where.empty() ? text(path, ": ", problem) : text(where, ": ", path, ": ", problem));
}

}  // namespace collegium
