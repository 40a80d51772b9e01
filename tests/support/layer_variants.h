// What the contracts of layers run over: every layer with every kind of expert, a routed layer with every router, and
// settings that matter besides the defaults.
#pragma once
#include <algorithm>

#include "collegium/layer/experts.h"
#include "collegium/layer/layer.h"
#include "tests/support/routing.h"

namespace collegium::test::layer_variants {

using namespace collegium::layer;

constexpr int64_t kTokens = 6, kWidth = 4, kExperts = 4;

inline bool has_field(const std::vector<FieldInfo>& fields, std::string_view name) {
  return std::any_of(fields.begin(), fields.end(), [&](const FieldInfo& f) { return f.name == name; });
}

// An entry with small sizes for whichever of the usual fields it has.
inline Named small(const Entry<MoeLayer>& entry) {
  Named named{.name = std::string(entry.card.name)};
  const auto fields = entry.fields();
  if (has_field(fields, "n_experts")) named.fields.set("n_experts", kExperts);
  if (has_field(fields, "d_expert")) named.fields.set("d_expert", 3);
  if (has_field(fields, "d_hidden")) named.fields.set("d_hidden", has_field(fields, "n_experts") ? 3 * kExperts : 5);
  if (has_field(fields, "d_latent")) named.fields.set("d_latent", 3);
  return named;
}

inline Variant routed(std::string what, const Table& router,
                      std::initializer_list<std::pair<std::string, Value>> more = {}) {
  auto fields = table({{"n_experts", kExperts}, {"d_expert", 3}, {"router", router}});
  for (const auto& [key, value] : more) fields.set(key, value);
  return {std::move(what), {.name = "routed", .fields = fields}};
}

// The router that a routed layer has without further words: it is in the list already.
inline std::string default_router() {
  const Named plain{.name = "routed"};
  const auto fields = find(layers(), plain, "layer").resolve(plain);
  return read_named(*fields.find("router"), "router").name;
}

inline const std::vector<Variant>& variants() {
  static const std::vector<Variant> all = [] {
    std::vector<Variant> out;
    for (const auto* e : layers()) {
      const std::string name(e->card.name);
      out.push_back({name, small(*e)});
      for (const auto* kind : experts()) {
        auto named = small(*e);
        if (!has_field(e->fields(), "expert")) continue;
        named.fields.set("expert", std::string(kind->card.name));
        if (e->resolve(named) == e->resolve(small(*e))) continue;  // the default kind
        out.push_back({name + " with " + std::string(kind->card.name), named});
      }
    }
    for (const auto* e : route::routers()) {
      const auto v = routed("routed by " + std::string(e->card.name), table({{"name", std::string(e->card.name)}}));
      if (e->card.name != default_router()) out.push_back(v);
    }
    const auto reroute = table({{"name", "stages"}, {"capacity", table({{"name", "reroute"}, {"factor", 0.75}})}});
    const auto by_sequence = table(
        {{"name", "stages"},
         {"capacity", table({{"name", "factor"}, {"factor", 0.6}, {"scope", "sequence"}})},
         {"balancers", List{table({{"name", "balance_loss"}, {"scope", "sequence"}, {"convention", "hf_pooled"}})}}});
    out.push_back(routed("dropping", table({{"name", "top_k"}, {"capacity_factor", 0.5}})));
    out.push_back(routed("dropping, shares of kept",
                         table({{"name", "stages"},
                                {"capacity", table({{"name", "factor"}, {"factor", 0.5}, {"priority", "score"}})},
                                {"gate", table({{"name", "normalised"}, {"over", "kept"}, {"scale", 2.5}})}})));
    out.push_back(routed("rerouting", reroute));
    out.push_back(routed("limits of each sequence", by_sequence));
    out.push_back(routed("shared experts", table({{"name", "top_k"}}), {{"n_shared", 2}}));
    for (const char* mix : {"gated", "averaged", "softmax"})
      out.push_back(
          routed(text("shared experts, ", mix), table({{"name", "top_k"}}), {{"n_shared", 1}, {"shared_mix", mix}}));
    out.push_back(routed("in three pieces each", table({{"name", "top_k"}, {"k", 1}}), {{"segments", 3}}));
    out.push_back(routed("in a loop", table({{"name", "top_k"}}), {{"dispatch", "loop"}}));
    out.push_back(
        {"soft, two slots", {.name = "soft", .fields = table({{"n_experts", 3}, {"d_expert", 3}, {"slots", 2}})}});
    const auto more = [&](std::string what, const char* name,
                          std::initializer_list<std::pair<std::string, Value>> fields) {
      Named named{.name = name, .fields = table({{"n_experts", kExperts}, {"d_expert", 3}})};
      for (const auto& [key, value] : fields) named.fields.set(key, value);
      out.push_back({std::move(what), named});
    };
    for (const auto& [what, key, value] : std::vector<std::tuple<std::string, std::string, Value>>{
             {"slices chosen by pairs of tokens", "patch", 2}, {"slices that keep half", "data_share", 0.5}})
      out.push_back({what,
                     {.name = "union",
                      .fields = table({{"n_experts", kExperts},
                                       {"d_hidden", 3 * kExperts},
                                       {"router", table({{"name", "union"}, {key, value}})}})}});
    more("merged by segment", "merged", {{"scope", "segment"}, {"segment", 2}});
    more("cartesian without shared sub-experts", "cartesian", {{"n_shared", 0}});
    more("chain of three steps, shared experts, one router", "chain",
         {{"steps", 3}, {"n_shared", 1}, {"own_routers", false}});
    more("chain without inner residual", "chain", {{"residual", "outer"}});
    more("finedeep weighed by inputs", "finedeep", {{"guide", "input"}, {"function", "softmax"}});
    more("latent with shared experts", "latent", {{"d_latent", 3}, {"n_shared", 1}});
    more("seven codes for four experts", "vector_quantised", {{"n_codes", 7}});
    more("stochastic, one expert when evaluating", "stochastic", {{"evaluated_k", 1}});
    return out;
  }();
  return all;
}

inline std::unique_ptr<MoeLayer> built(const Named& named, uint64_t seed = 1, at::ScalarType type = at::kFloat) {
  auto made = find(layers(), named, "layer")
                  .make(named, {.d_model = kWidth, .random = Random(seed), .options = type, .corpus = some_corpus()});
  if (made->router()) scale_parameters(*made->router(), 5);
  return made;
}

}  // namespace collegium::test::layer_variants
