#include "collegium/recipe/catalogues.h"

#include <algorithm>

#include "collegium/layer/attention.h"
#include "collegium/layer/experts.h"
#include "collegium/layer/layer.h"
#include "collegium/model/image_model.h"
#include "collegium/model/language_model.h"
#include "collegium/recipe/workload.h"
#include "collegium/route/router.h"
#include "collegium/train/optimizer.h"

namespace collegium {
namespace {

template <class Interface>
Catalogue catalogue_of(Entries<Interface> all, std::string_view name, std::string_view singular) {
  return {name, singular, describe(all, name),
          [all, singular](const Named& named) { return find(all, named, singular).resolve(named); }};
}

// Models of all kinds in one list, by name: a recipe names its model under one key whatever the task.
Catalogue models() {
  auto out = catalogue_of(model::language_models(), "models", "model");
  const auto images = catalogue_of(model::image_models(), "models", "model");
  out.entries.insert(out.entries.end(), images.entries.begin(), images.entries.end());
  std::sort(out.entries.begin(), out.entries.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  out.resolve = [](const Named& named) {
    for (const auto* e : model::image_models())
      if (e->card.name == named.name) return e->resolve(named);
    for (const auto* e : model::language_models())
      if (e->card.name == named.name) return e->resolve(named);
    std::vector<std::string> known;
    for (const auto* e : model::language_models()) known.emplace_back(e->card.name);
    for (const auto* e : model::image_models()) known.emplace_back(e->card.name);
    const auto near = nearest(named.name, known);
    throw config_error(named.origin, named.path.empty() ? "model" : named.path,
                       text("unknown model '", named.name, "'",
                            near.empty() ? "" : text("; did you mean '", near, "'?"), " (known: ", join(known), ")"));
  };
  return out;
}

// A preset router shows what it is composed of.
void add_compositions(Catalogue& routers) {
  for (auto& entry : routers.entries) {
    const auto found = find(route::routers(), Named{.name = entry.name}, "router");
    const auto router = found.make({.name = entry.name}, {.d_model = 8, .n_experts = 8, .options = at::kFloat});
    if (!router->composition()) continue;
    auto c = *router->composition();
    const auto part = [&](std::string_view what, const Named& named) {
      entry.claims.emplace_back(std::string(what),
                                named.fields.empty() ? named.name : named.name + " " + to_toml(Value(named.fields)));
    };
    part("scorer", c.scorer), part("selector", c.selector), part("capacity", c.capacity), part("gate", c.gate);
    for (const auto& balancer : c.balancers) part("balancer", balancer);
    if (c.null_experts > 0) entry.claims.emplace_back("null experts", text(c.null_experts));
  }
}

}  // namespace

const std::vector<Catalogue>& catalogues() {
  static const std::vector<Catalogue> all = [] {
    std::vector<Catalogue> out = {
        catalogue_of(route::routers(), "routers", "router"),
        catalogue_of(route::scorers(), "scorers", "scorer"),
        catalogue_of(route::selectors(), "selectors", "selector"),
        catalogue_of(route::capacities(), "capacities", "capacity"),
        catalogue_of(route::gates(), "gates", "gate"),
        catalogue_of(route::balancers(), "balancers", "balancer"),
        catalogue_of(layer::experts(), "experts", "expert"),
        catalogue_of(layer::layers(), "layers", "layer"),
        catalogue_of(layer::attentions(), "attentions", "attention"),
        models(),
        catalogue_of(train::optimizers(), "optimizers", "optimizer"),
        catalogue_of(train::schedules(), "schedules", "schedule"),
        catalogue_of(tasks(), "tasks", "task"),
    };
    add_compositions(out.front());
    return out;
  }();
  return all;
}

std::vector<EntryInfo> all_entries() {
  std::vector<EntryInfo> out;
  for (const auto& c : catalogues()) out.insert(out.end(), c.entries.begin(), c.entries.end());
  return out;
}

Table resolve_fields(Table written, const std::vector<FieldInfo>& fields, std::string_view path) {
  const auto below = [&](const std::string& name) { return path.empty() ? name : text(path, ".", name); };
  for (const auto& field : fields) {
    auto* value = written.find(field.name);
    if (!value) continue;
    if (!field.children.empty()) {
      *value = resolve_fields(std::get<Table>(value->data), field.children, below(field.name));
    } else if (field.catalogue.empty()) {
      continue;
    } else if (auto* list = std::get_if<List>(&value->data)) {
      for (size_t i = 0; i < list->size(); ++i) {
        const auto named = read_named((*list)[i], text(below(field.name), "[", i, "]"));
        (*list)[i] = resolve_component(field.catalogue, named);
      }
    } else {
      *value = resolve_component(field.catalogue, read_named(*value, below(field.name)));
    }
  }
  return written;
}

Table resolve_component(std::string_view catalogue, const Named& named) {
  for (const auto& c : catalogues()) {
    if (c.name != catalogue) continue;
    auto out = table({{"name", named.name}});
    auto fields = c.resolve(named);
    for (const auto& entry : c.entries)
      if (entry.name == named.name) fields = resolve_fields(std::move(fields), entry.fields, named.path);
    for (auto& item : fields.items) out.items.push_back(std::move(item));
    return out;
  }
  ensure(false, "unknown catalogue '", catalogue, "'");
  return {};
}

}  // namespace collegium
