// What the contracts of routers run over: every preset, some settings, and compositions of stages.
//
// N tokens, D model width, E experts.
#pragma once
#include <algorithm>
#include <set>

#include "tests/support/routing.h"

namespace collegium::test::router_variants {

using namespace collegium::route;

constexpr int64_t kTokens = 12, kWidth = 8, kExperts = 4;

// Settings that matter besides the defaults. An entry without a line here is still tested, with its defaults.
inline std::vector<Variant> settings() {
  return {
      {"switch, no limit", {.name = "switch", .fields = table({{"capacity_factor", 0.0}, {"z_loss", 0.001}})}},
      {"switch, little room", {.name = "switch", .fields = table({{"capacity_factor", 0.5}})}},
      {"top_k, k = E", {.name = "top_k", .fields = table({{"k", kExperts}})}},
      {"top_k, little room", {.name = "top_k", .fields = table({{"capacity_factor", 0.6}})}},
      {"gshard, little room", {.name = "gshard", .fields = table({{"capacity_factor", 0.8}})}},
      {"hash, k = 3", {.name = "hash", .fields = table({{"k", 3}, {"seed", 9}})}},
      {"expert_choice, few", {.name = "expert_choice", .fields = table({{"capacity_factor", 0.5}})}},
      {"expert_choice, all", {.name = "expert_choice", .fields = table({{"capacity_factor", 4.0}})}},
      {"loss_free, fast", {.name = "loss_free", .fields = table({{"rate", 0.1}, {"scale", 2.5}})}},
      {"relu, strong", {.name = "relu", .fields = table({{"start", 0.1}, {"target_k", 1.0}})}},
  };
}

inline StageInputs stage_inputs(uint64_t seed = 1, at::ScalarType type = at::kFloat) {
  return {.d_model = kWidth, .n_experts = kExperts, .random = Random(seed), .options = type, .corpus = some_corpus()};
}

// Every scorer with every score function it has.
inline std::vector<Named> all_scorers() {
  std::vector<Named> out;
  for (const auto* e : scorers()) {
    const std::string name(e->card.name);
    bool has_activation = false;
    for (const auto& f : e->fields()) has_activation = has_activation || f.name == "activation";
    if (!has_activation) out.push_back({.name = name});
    for (const auto* activation : {"softmax", "sigmoid", "relu"})
      if (has_activation) out.push_back({.name = name, .fields = table({{"activation", activation}})});
  }
  return out;
}

inline std::string words(const Composition& c) {
  const auto* activation = c.scorer.fields.find("activation");
  auto out = text(c.scorer.name, activation ? " " + std::get<std::string>(activation->data) : "", " / ",
                  c.selector.name, " / ", c.capacity.name, " / ", c.gate.name);
  for (const auto& b : c.balancers) out += " + " + b.name;
  return out;
}

// Compositions of one scorer, selector, capacity and gate, with every balancer each takes, such that every pair of
// stages that can be built together is built once. (composition_test.cpp draws from all of them.)
inline const std::vector<Variant>& compositions() {
  static const std::vector<Variant> all = [] {
    std::vector<Variant> out;
    std::set<std::pair<std::string, std::string>> covered;
    const auto builds = [](const Composition& c) {
      return complaint([&] { Router::compose(c, stage_inputs(), ""); }).empty();
    };
    for (const auto& scorer : all_scorers())
      for (const auto* selector : selectors())
        for (const auto* capacity : capacities())
          for (const auto* gate : gates()) {
            Composition c;
            c.scorer = scorer;
            c.selector = {.name = std::string(selector->card.name)};
            c.capacity = {.name = std::string(capacity->card.name)};
            c.gate = {.name = std::string(gate->card.name)};
            if (c.capacity.name == "factor" || c.capacity.name == "reroute")
              c.capacity.fields = table({{"factor", 0.75}});
            const auto scored = text(scorer.name, to_toml(scorer.fields));
            const std::pair<std::string, std::string> pairs[] = {
                {scored, "s " + c.selector.name},      {scored, "c " + c.capacity.name},
                {scored, "g " + c.gate.name},          {c.selector.name, "c " + c.capacity.name},
                {c.selector.name, "g " + c.gate.name}, {c.capacity.name, "g " + c.gate.name}};
            if (std::all_of(std::begin(pairs), std::end(pairs), [&](const auto& p) { return covered.count(p) > 0; }))
              continue;
            if (!builds(c)) continue;
            covered.insert(std::begin(pairs), std::end(pairs));
            // Some exclude each other, so each has its turn to be first.
            const auto n = balancers().size();
            for (size_t i = 0; i < n; ++i) {
              const auto* balancer = balancers()[(out.size() + i) % n];
              auto more = c;
              more.balancers.push_back({.name = std::string(balancer->card.name)});
              if (builds(more)) c = more;
            }
            out.push_back({words(c), {.name = "stages", .fields = write_config(c)}});
          }
    return out;
  }();
  return all;
}

inline std::vector<Variant> presets() {
  std::vector<Variant> out;
  for (const auto* e : routers()) out.push_back({std::string(e->card.name), {.name = std::string(e->card.name)}});
  for (auto& v : settings()) out.push_back(v);
  return out;
}

inline std::vector<Variant> everything() {
  auto out = presets();
  for (const auto& v : compositions()) out.push_back(v);
  return out;
}

// The router with weights large enough to tell experts apart.
inline std::unique_ptr<Router> built(const Named& named, uint64_t seed = 1, at::ScalarType type = at::kFloat) {
  auto router = make_router(named, kWidth, kExperts, seed, type);
  scale_parameters(*router, 4);
  return router;
}

}  // namespace collegium::test::router_variants
