// Random routing: every set of k experts is as likely as any other, choices are different, and the draw depends on the
// noise of the step and on nothing else.
//
// N tokens, D model width, E experts.
#include <map>
#include <set>

#include "tests/support/routing.h"

namespace {

using namespace collegium;
using namespace collegium::route;
using namespace collegium::test;

std::vector<std::vector<int64_t>> choices(Router& router, int64_t N, const Context& context) {
  const auto d = router.route(numbers(Random(1), {N, 3}), context).decision;
  std::vector<std::vector<int64_t>> out(static_cast<size_t>(N));
  const auto token = ints(d.token_R()), expert = ints(d.expert_R()), rank = ints(d.rank_R());
  for (auto& c : out) c.resize(token.size() / static_cast<size_t>(N));
  for (size_t r = 0; r < token.size(); ++r)
    out[static_cast<size_t>(token[r])][static_cast<size_t>(rank[r])] = expert[r];
  return out;
}

}  // namespace

TEST_CASE_FIXTURE(OneThread, "every ordered choice of k of E experts comes equally often") {
  const int64_t N = 24000, E = 4;
  for (const int64_t k : {1, 2, 4}) {
    CAPTURE(k);
    const auto router = make_router({.name = "thor", .fields = table({{"k", k}})}, 3, E);
    std::map<std::vector<int64_t>, int64_t> count;
    for (const auto& c : choices(*router, N, context_of(N, 600))) ++count[c];
    int64_t n_choices = 1;
    for (int64_t j = 0; j < k; ++j) n_choices *= E - j;
    CHECK(static_cast<int64_t>(count.size()) == n_choices);
    // Chi-squared with n - 1 degrees of freedom: mean n - 1, standard deviation sqrt(2 (n - 1)).
    const auto even = static_cast<double>(N) / static_cast<double>(n_choices);
    double chi = 0;
    for (const auto& [choice, n] : count)
      chi += (static_cast<double>(n) - even) * (static_cast<double>(n) - even) / even;
    const auto freedom = static_cast<double>(n_choices - 1);
    CHECK(chi < freedom + 5 * std::sqrt(2 * freedom));
  }
}

TEST_CASE_FIXTURE(OneThread, "the draw is the step's: the same again for the same noise") {
  const int64_t N = 50;
  for (const auto phase : {Phase::train, Phase::evaluate})
    for (const bool shared : {true, false}) {
      CAPTURE(shared);
      const auto router = make_router({.name = "thor", .fields = table({{"k", 2}, {"shared_draw", shared}})}, 3, 8);
      auto context = context_of(N);
      context.phase = phase;
      const auto first = choices(*router, N, context);
      CHECK(choices(*router, N, context) == first);
      context.random = Random(6);
      CHECK(choices(*router, N, context) != first);
      // Weights are equal, whatever k.
      const auto gate = reals(router->route(numbers(Random(1), {N, 3}), context).decision.gate_R());
      for (const auto g : gate) CHECK(g == 0.5);
    }
}

TEST_CASE_FIXTURE(OneThread, "a shared draw is one for all tokens of a training pass, and evaluation draws for each") {
  const int64_t N = 60;
  const auto router = make_router({.name = "thor", .fields = table({{"k", 2}, {"shared_draw", true}})}, 3, 8);
  const auto apart = make_router({.name = "thor", .fields = table({{"k", 2}})}, 3, 8);
  const auto n_sets = [&](Router& r, Phase phase) {
    auto context = context_of(N);
    context.phase = phase;
    const auto all = choices(r, N, context);
    return std::set<std::vector<int64_t>>(all.begin(), all.end()).size();
  };
  CHECK(n_sets(*router, Phase::train) == 1);
  CHECK(n_sets(*router, Phase::recompute) == 1);
  CHECK(n_sets(*router, Phase::evaluate) > 20);
  CHECK(n_sets(*apart, Phase::train) > 20);
  // Over many passes every expert has its turn.
  std::set<int64_t> met;
  auto context = context_of(N);
  context.phase = Phase::train;
  for (uint64_t pass = 0; pass < 40; ++pass) {
    context.random = Random(pass);
    const auto all = choices(*router, N, context);
    met.insert(all[0].begin(), all[0].end());
  }
  CHECK(met.size() == 8);
}
