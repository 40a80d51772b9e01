#include "collegium/model/layer_overrides.h"

#include <charconv>
#include <optional>

namespace collegium::model {
namespace {

struct Layers {
  int64_t first = 0, last = 0, step = 1;
  bool has(int64_t layer) const { return layer >= first && layer <= last && (layer - first) % step == 0; }
};

std::optional<int64_t> number(std::string_view word) {
  int64_t out = 0;
  const auto [end, problem] = std::from_chars(word.data(), word.data() + word.size(), out);
  if (word.empty() || problem != std::errc() || end != word.data() + word.size()) return {};
  return out;
}

Layers read_layers(const Item& item, int64_t n_layers, std::string_view path) {
  const auto refuse = [&](const std::string& problem) {
    return config_error(item.value.origin, text(path, ".", item.key),
                        text(problem, "; a key names layers of 0 to ", n_layers - 1,
                             ": 3, 2-5, 2- (to the last), or 2-5/2 (every second)"));
  };
  Layers out;
  std::string_view word = item.key;
  if (const auto slash = word.find('/'); slash != std::string_view::npos) {
    const auto step = number(word.substr(slash + 1));
    if (!step || *step < 1) throw refuse(text("'", item.key, "' is no range of layers"));
    out.step = *step;
    word = word.substr(0, slash);
  }
  const auto dash = word.find('-');
  const auto first = number(word.substr(0, dash));
  const auto last = dash == std::string_view::npos ? first
                    : dash + 1 == word.size()      ? std::optional(n_layers - 1)
                                                   : number(word.substr(dash + 1));
  if (!first || !last) throw refuse(text("'", item.key, "' is no range of layers"));
  if (*first < 0 || *last >= n_layers || *first > *last)
    throw refuse(text("there are no layers ", item.key, " in a model of ", n_layers));
  out.first = *first, out.last = *last;
  return out;
}

}  // namespace

void check_overrides(const Table& overrides, int64_t n_layers, std::string_view path) {
  for (const auto& item : overrides.items) {
    read_layers(item, n_layers, path);
    if (!std::holds_alternative<Table>(item.value.data) && !std::holds_alternative<std::string>(item.value.data))
      throw config_error(item.value.origin, text(path, ".", item.key),
                         text("must be a name or a table, got ", item.value.type_name()));
  }
}

Named overridden(const Named& base, std::span<const Named> known, const Table& overrides, int64_t layer,
                 int64_t n_layers, std::string_view path) {
  auto out = base;
  for (const auto& item : overrides.items) {
    if (!read_layers(item, n_layers, path).has(layer)) continue;
    const auto here = text(path, ".", item.key);
    const auto* fields = std::get_if<Table>(&item.value.data);
    auto over = fields ? *fields : table({{"name", item.value}});
    if (const auto* name = over.find("name"); name && name->data != Value(out.name).data) {
      out = {.name = read_named(Value(over), here).name};
      for (const auto& other : known)
        if (other.name == out.name) out = other;
    }
    out = read_named(Value(merged(to_table(out), over)), here);
    out.origin = item.value.origin;
  }
  return out;
}

}  // namespace collegium::model
