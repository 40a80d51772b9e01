// What the contracts of attention run over: every kind, and settings that matter besides the defaults.
#pragma once
#include "tests/support/attentions.h"

namespace collegium::test::attention_variants {

struct SizedVariant {
  std::string what;
  Named named;
  AttentionSizes sizes;
};

inline const std::vector<SizedVariant>& variants() {
  static const std::vector<SizedVariant> all = [] {
    std::vector<SizedVariant> out;
    for (const auto* e : layer::attentions())
      out.push_back({std::string(e->card.name), {.name = std::string(e->card.name)}});
    const auto more = [&](std::string what, const char* name,
                          std::initializer_list<std::pair<std::string, Value>> fields, AttentionSizes sizes = {}) {
      Named named{.name = name};
      for (const auto& [key, value] : fields) named.fields.set(key, value);
      out.push_back({std::move(what), named, sizes});
    };
    more("two query heads a key", "full", {}, {.H = 4, .G = 2});
    more("one key for all", "full", {}, {.H = 4, .G = 1});
    more("sparse heads alone", "mosa", {{"n_dense", 0}, {"n_sparse", 3}, {"sparsity", 2.0}});
    more("sparse heads of the whole sequence", "mosa",
         {{"n_sparse", 3}, {"n_dense_kv", 1}, {"sparsity", 3.0}, {"evaluation", "sequence"}});
    more("sparse heads trained on the best so far", "mosa",
         {{"n_sparse", 3}, {"sparsity", 2.0}, {"training", "so_far"}});
    more("three of five heads", "moa", {{"n_experts", 5}, {"router", table({{"name", "top_k"}, {"k", 3}})}});
    more("any number of heads", "moa", {{"n_experts", 5}, {"router", "relu"}});
    more("heads that choose tokens", "moa", {{"n_experts", 3}, {"router", "expert_choice"}});
    more("heads with a limit", "moa", {{"router", table({{"name", "top_k"}, {"capacity_factor", 0.5}})}});
    const auto heads = [](std::initializer_list<std::pair<std::string, Value>> fields) {
      auto router = table({{"name", "union"}});
      for (const auto& [key, value] : fields) router.set(key, value);
      return Value(router);
    };
    more("two of four heads", "selective", {{"router", heads({{"k", 2}})}}, {.H = 4, .G = 4});
    more("heads that keep half", "selective", {{"router", heads({{"k", 3}, {"data_share", 0.5}})}}, {.H = 4, .G = 4});
    return out;
  }();
  return all;
}

}  // namespace collegium::test::attention_variants
