// Union of Experts' routing: patches choose together, experts keep a share of each sequence, weights sum to k.
//
// N tokens, D model width, E experts.
#include "tests/support/routing.h"

namespace {

using namespace collegium;
using namespace collegium::route;
using namespace collegium::test;

constexpr int64_t kTokens = 12, kWidth = 6, kExperts = 4;

std::unique_ptr<Router> router_of(std::initializer_list<std::pair<std::string, Value>> fields) {
  auto router = make_router({.name = "union", .fields = table(fields)}, kWidth, kExperts, 1, at::kDouble);
  scale_parameters(*router, 5);
  return router;
}

Tensor tokens(uint64_t seed = 3) {
  return numbers(Random(seed), {kTokens, kWidth}, -1, 1, at::kDouble);
}

// The experts of each token as a set.
std::vector<std::set<int64_t>> experts_of(const Decision& d) {
  std::vector<std::set<int64_t>> out(static_cast<size_t>(d.n_tokens()));
  const auto token = ints(d.token_R()), expert = ints(d.expert_R());
  for (size_t r = 0; r < token.size(); ++r) out[static_cast<size_t>(token[r])].insert(expert[r]);
  return out;
}

}  // namespace

TEST_CASE("union: the tokens of a patch go where its first real token would go alone") {
  const auto alone = router_of({}), together = router_of({{"patch", 4}});
  CHECK(together->facts().is_causal);
  CHECK(together->facts().reads_other_tokens);
  {
    const at::NoGradGuard no_grad;
    *parameters_of(*together)[0].tensor = parameters_of(*alone)[0].tensor->detach().clone();
  }
  auto context = context_of(kTokens, 2);  // sequences of six: patches of four and two
  for (const bool is_masked : {false, true}) {
    if (is_masked) {
      context.mask_N = at::ones({kTokens}, at::kBool);
      context.mask_N[0] = false, context.mask_N[7] = false;
    }
    const auto one = experts_of(alone->route(tokens(), context).decision);
    const auto all = experts_of(together->route(tokens(), context).decision);
    const std::vector<size_t> first = {0, 0, 0, 0, 4, 4, 6, 6, 6, 6, 10, 10};
    for (size_t n = 0; n < kTokens; ++n) {
      CAPTURE(n);
      const bool is_gone = is_masked && (n == 0 || n == 7);
      const auto leader = is_masked && first[n] == 0 ? size_t{1} : first[n];
      CHECK(all[n] == (is_gone ? std::set<int64_t>{} : one[leader]));
    }
  }
}

TEST_CASE("patch: the mean of the scores looks ahead, and counts real tokens only") {
  const auto mean = make_router(
      {.name = "stages", .fields = table({{"scorer", table({{"name", "patch"}, {"patch", 0}, {"pool", "mean"}})}})},
      kWidth, kExperts, 1, at::kDouble);
  CHECK_FALSE(mean->facts().is_causal);
  auto context = context_of(kTokens, 2);
  context.mask_N = at::ones({kTokens}, at::kBool);
  context.mask_N[2] = false;
  const auto score_NE = mean->route(tokens(), context).scores.score_NE;
  const auto single_NE = at::linear(tokens(), parameters_of(*mean)[0].tensor->detach()).softmax(1);
  const auto rows = at::tensor(std::vector<int64_t>{0, 1, 3, 4, 5});
  const auto first_E = single_NE.index_select(0, rows).mean(0), second_E = single_NE.slice(0, 6).mean(0);
  for (const int64_t n : {0, 1, 5}) CHECK(difference(score_NE[n], first_E) < 1e-12);
  for (const int64_t n : {6, 11}) CHECK(difference(score_NE[n], second_E) < 1e-12);
  CHECK(router_of({{"patch", 0}})->facts().is_causal);
}

TEST_CASE("union: an expert keeps its best-scored share of each sequence") {
  const auto all = router_of({{"k", 3}}), some = router_of({{"k", 3}, {"data_share", 0.5}});
  CHECK(all->facts().is_causal);
  CHECK_FALSE(some->facts().is_causal);
  CHECK(router_of({{"data_share", 0.5}, {"priority", "position"}})->facts().is_causal);
  const auto context = context_of(kTokens, 2);
  const auto score_NE = all->route(tokens(), context).scores.score_NE.detach();
  const auto asked = experts_of(all->route(tokens(), context).decision);
  const auto kept = experts_of(some->route(tokens(), context).decision);
  for (int64_t e = 0; e < kExperts; ++e)
    for (size_t begin = 0; begin < kTokens; begin += 6) {
      std::vector<std::pair<double, size_t>> who;
      for (auto n = begin; n < begin + 6; ++n)
        if (asked[n].count(e)) who.emplace_back(-score_NE[static_cast<int64_t>(n)][e].item<double>(), n);
      std::sort(who.begin(), who.end());
      for (size_t i = 0; i < who.size(); ++i) CHECK(kept[who[i].second].count(e) == (i < 3));
    }
}

TEST_CASE("union: a token's weights sum to the number of its experts, or each is one") {
  for (const bool weighed : {true, false}) {
    const auto router = router_of({{"k", 3}, {"weighed", weighed}});
    const auto d = router->route(tokens(), context_of(kTokens)).decision;
    const auto sum_N = at::zeros({kTokens}, at::kDouble).index_add(0, d.token_R(), d.gate_R().detach());
    CHECK(difference(sum_N, at::full({kTokens}, 3.0, at::kDouble)) < 1e-12);
    const bool is_even = (d.gate_R().detach() - 1).abs().max().item<double>() < 1e-12;
    CHECK(is_even != weighed);
  }
}
