// AdaMoE: null choices are in no decision, weights are shares of true experts, fewer experts work the more null ones
// there are, and the loss cannot tell null experts apart.
//
// N tokens, D model width, E true experts, M null ones.
#include "collegium/route/losses.h"
#include "tests/support/gradcheck.h"
#include "tests/support/routing.h"

namespace {

using namespace collegium;
using namespace collegium::route;
using namespace collegium::test;

Named ada_moe(int64_t k, int64_t null_experts, double balance_loss = 0.01) {
  return {.name = "ada_moe",
          .fields = table({{"k", k}, {"null_experts", null_experts}, {"balance_loss", balance_loss}})};
}

}  // namespace

TEST_CASE_FIXTURE(OneThread, "null choices do no work, and weights are shares of the true ones") {
  const int64_t N = 60, D = 5, E = 4, M = 3, K = 4;
  const auto router = make_router(ada_moe(K, M), D, E, 1, at::kDouble);
  scale_parameters(*router, 5);
  const auto routing = router->route(numbers(Random(1), {N, D}, -1, 1, at::kDouble), context_of(N));
  const auto& d = routing.decision;
  check_decision(d, N, E);
  // By hand: of the k best of all E + M, those that are true, and their softmax shares.
  const auto score = reals(routing.scores.score_NE);
  auto wanted_NE = at::zeros({N, E}, at::kDouble);
  int64_t wanted_kept = 0;
  std::set<int64_t> counts;
  for (int64_t n = 0; n < N; ++n) {
    std::vector<int64_t> order(static_cast<size_t>(E + M));
    for (size_t e = 0; e < order.size(); ++e) order[e] = static_cast<int64_t>(e);
    const auto at = [&](int64_t e) { return score[static_cast<size_t>(n * (E + M) + e)]; };
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return at(a) > at(b); });
    double sum = 0;
    int64_t count = 0;
    for (size_t i = 0; i < K; ++i)
      if (order[i] < E) sum += at(order[i]), ++count;
    for (size_t i = 0; i < K; ++i)
      if (order[i] < E) wanted_NE[n][order[i]] = at(order[i]) / sum;
    wanted_kept += count, counts.insert(count);
  }
  CHECK(d.n_kept() == wanted_kept);
  CHECK(counts.size() >= 3);
  const auto got_NE = at::zeros({N, E}, at::kDouble).index_put({d.token_R(), d.expert_R()}, d.gate_R().detach());
  CHECK(difference(got_NE, wanted_NE) < 1e-12);
}

TEST_CASE_FIXTURE(OneThread, "the more null experts, the fewer true ones work, as many as an even load says") {
  const int64_t N = 4000, D = 8, E = 8;
  double before = 1e9;
  for (const int64_t M : {0, 4, 8, 16}) {
    const auto router = make_router(ada_moe(3, M), D, E, 3);
    const auto kept = router->route(numbers(Random(2), {N, D}), context_of(N, 100)).decision.n_kept();
    const auto per_token = static_cast<double>(kept) / N;
    CHECK(per_token < before);
    // A fresh router has no preference.
    CHECK(per_token == doctest::Approx(router->facts().choices_per_token).epsilon(0.35));
    before = per_token;
  }
  CHECK(make_router(ada_moe(3, 8), D, E)->facts().choices_per_token == doctest::Approx(1.5));
}

TEST_CASE_FIXTURE(OneThread, "the loss treats null experts alike: who of them takes the load changes nothing") {
  const int64_t N = 30, E = 3, M = 3;
  const auto score_NE = numbers(Random(3), {N, E + M}, -2, 2, at::kDouble).softmax(1);
  const auto mixed = at::tensor(std::vector<int64_t>{0, 1, 2, 5, 3, 4});  // null experts swap their scores
  const auto loss_of = [&](const Tensor& scored_NE, const Tensor& chosen_N, int64_t n_null) {
    const auto ones = at::ones({N}, at::kDouble);
    const auto decision = Decision::make({at::arange(N), chosen_N, at::zeros({N}, at::kLong), ones, ones}, N, E + M);
    const Scores scores{.score_NE = scored_NE, .kind = ScoreKind::softmax, .n_tokens = N, .n_experts = E + M};
    return balance_loss(scores, decision, context_of(N, 3), LossConvention::switch_, LossScope::batch, n_null)
        .item<double>();
  };
  const auto chosen_N = ids(Random(4), N, E + M);
  const auto moved_N = mixed.index_select(0, chosen_N);
  // The load moves between null experts, the scores stay: only the plain loss notices.
  CHECK(loss_of(score_NE, chosen_N, M) == doctest::Approx(loss_of(score_NE, moved_N, M)).epsilon(1e-12));
  CHECK(std::abs(loss_of(score_NE, chosen_N, 0) - loss_of(score_NE, moved_N, 0)) > 1e-4);
  CHECK(loss_of(score_NE.index_select(1, mixed), chosen_N, M) ==
        doctest::Approx(loss_of(score_NE, chosen_N, M)).epsilon(1e-12));
  // All load on one null expert is as good as even load on all of them; by hand.
  const auto one_null = loss_of(score_NE, at::full({N}, E, at::kLong), M);
  const auto mean_E = reals(score_NE.mean(0));
  CHECK(one_null == doctest::Approx((E + M) * (mean_E[3] + mean_E[4] + mean_E[5]) / M).epsilon(1e-12));
}

TEST_CASE_FIXTURE(OneThread, "gradients of AdaMoE, its loss included") {
  const int64_t N = 6, D = 3, E = 3;
  const auto router = make_router(ada_moe(3, 2, 0.7), D, E, 2, at::kDouble);
  scale_parameters(*router, 5);
  auto x_ND = numbers(Random(5), {N, D}, -1, 1, at::kDouble).requires_grad_(true);
  const auto report = check_gradients(
      [&] {
        const auto r = router->route(x_ND, context_of(N));
        return Evaluated{at::cat({r.decision.gate_R(), r.losses.at(0).value.reshape({1})}), choice_of(r.decision)};
      },
      {{"x", x_ND}, {"weight", *parameters_of(*router).front().tensor}});
  CHECK(report.is_smooth);
  CHECK_MESSAGE(report.worst < 1e-7, report.where);
  CHECK(report.largest > 1e-3);
}

TEST_CASE_FIXTURE(OneThread, "a token that chooses null experts only passes by") {
  const int64_t N = 5, D = 3, E = 2, M = 4;
  const auto router = make_router(ada_moe(2, M), D, E, 2);
  {
    const at::NoGradGuard no_grad;
    auto* weight = parameters_of(*router).front().tensor;
    weight->zero_();
    weight->slice(0, E).select(1, 0).fill_(4);
  }
  auto x_ND = numbers(Random(6), {N, D});
  x_ND.select(1, 0).fill_(1);
  const auto routing = router->route(x_ND, context_of(N, 1, Phase::train));
  CHECK(routing.decision.n_asked() == 0);
  CHECK(std::isfinite(routing.losses.at(0).raw));
  CHECK(routing.losses[0].raw > 1);  // the loss sees the null load that the decision does not show
}
