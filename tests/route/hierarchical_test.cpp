// Two-level routing: probabilities multiply, groups are ranked by their own probability, weights sum to one on each
// level where asked.
//
// N tokens, D model width, E experts, G groups of S experts.
#include "tests/support/routing.h"

namespace {

using namespace collegium;
using namespace collegium::route;
using namespace collegium::test;

constexpr int64_t kTokens = 10, kWidth = 5, kExperts = 12, kGroups = 4, kSize = 3;

Table fields(std::initializer_list<std::pair<std::string, Value>> more = {}) {
  auto out = table({{"groups", kGroups}, {"top_groups", 2}, {"k", 2}});
  for (const auto& [key, value] : more) out.set(key, value);
  return out;
}

std::unique_ptr<Router> hierarchical(const Table& with) {
  auto made = make_router({.name = "hierarchical", .fields = with}, kWidth, kExperts, 3, at::kDouble);
  scale_parameters(*made, 8);
  return made;
}

Tensor hidden() {
  return numbers(Random(1), {kTokens, kWidth}, -2, 2, at::kDouble);
}

struct Levels {
  Tensor group_NG, inside_NGS;
};
Levels levels(Router& router) {
  Levels out;
  for (const auto& p : parameters_of(router)) {
    const auto logit = at::linear(hidden(), *p.tensor).detach();
    if (p.name == "scorer.group") out.group_NG = logit.softmax(1);
    if (p.name == "scorer.expert") out.inside_NGS = logit.view({kTokens, kGroups, kSize}).softmax(2);
  }
  return out;
}

}  // namespace

TEST_CASE("hierarchical: the probability of the group times that of the expert inside it") {
  const auto router = hierarchical(fields());
  const auto routing = router->route(hidden(), context_of(kTokens));
  const auto [group_NG, inside_NGS] = levels(*router);
  CHECK(difference(routing.scores.score_NE, (group_NG.unsqueeze(2) * inside_NGS).reshape({kTokens, kExperts})) < 1e-12);
  CHECK(difference(routing.scores.score_NE.sum(1), at::ones({kTokens}, at::kDouble)) < 1e-12);
  CHECK(difference(routing.scores.logit_NE.softmax(1), routing.scores.score_NE) < 1e-12);
}

TEST_CASE("hierarchical: the likeliest groups, the likeliest experts in each, weights by either rule") {
  for (const bool normalise : {false, true}) {
    const auto router = hierarchical(fields({{"normalise", normalise}}));
    const auto d = router->route(hidden(), context_of(kTokens)).decision;
    const auto [group_NG, inside_NGS] = levels(*router);
    CHECK(d.n_kept() == kTokens * 4);
    const auto token = ints(d.token_R()), expert = ints(d.expert_R());
    const auto gate = reals(d.gate_R());
    for (int64_t n = 0; n < kTokens; ++n) {
      const auto groups = std::get<1>(group_NG[n].topk(2));
      double sum = 0;
      int64_t count = 0;
      for (size_t r = 0; r < token.size(); ++r) {
        if (token[r] != n) continue;
        const auto g = expert[r] / kSize, i = expert[r] % kSize;
        CHECK(groups.eq(g).any().item<bool>());
        const auto best = std::get<0>(inside_NGS[n][g].topk(2));
        CHECK(inside_NGS[n][g][i].item<double>() >= best[1].item<double>());
        auto expected = group_NG[n][g] * inside_NGS[n][g][i];
        if (normalise) expected = expected / group_NG[n].index_select(0, groups).sum() / best.sum();
        CHECK(gate[r] == doctest::Approx(expected.item<double>()).epsilon(1e-9));
        sum += gate[r], ++count;
      }
      CHECK(count == 4);
      if (normalise) CHECK(sum == doctest::Approx(1));
    }
  }
}

TEST_CASE("hierarchical: groups that do not divide the experts are refused") {
  CHECK(complaint([] { hierarchical(fields({{"groups", 5}})); }).find("12 experts do not divide into 5") !=
        std::string::npos);
}

TEST_CASE("hierarchical: a dropped expert leaves its group's weight to the others in it") {
  const auto composed = stages(
      {{"scorer", table({{"name", "hierarchical"}, {"groups", kGroups}})},
       {"selector",
        table({{"name", "grouped_top_k"}, {"groups", kGroups}, {"top_groups", 2}, {"k", 2}, {"within", "each"}})},
       {"capacity", table({{"name", "factor"}, {"factor", 0.6}})},
       {"gate", table({{"name", "group_product"}, {"groups", kGroups}})}});
  const auto router = make_router(composed, kWidth, kExperts, 3, at::kDouble);
  scale_parameters(*router, 8);
  const auto d = router->route(hidden(), context_of(kTokens)).decision;
  REQUIRE(d.n_dropped() > 0);
  const auto sum_N = at::zeros({kTokens}, at::kDouble).index_add(0, d.token_R(), d.gate_R().detach());
  for (const auto sum : reals(sum_N)) CHECK((sum == 0 || std::abs(sum - 1) < 1e-9));
}
