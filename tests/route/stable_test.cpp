// Two stages: what the first one learns, and that nothing moves in the second one.
//
// N tokens, D model width, E experts, V token ids.
#include "tests/support/gradcheck.h"
#include "tests/support/routing.h"

namespace {

using namespace collegium;
using namespace collegium::route;
using namespace collegium::test;

Named stable(int64_t freeze_at, double balance = 0.3) {
  return {.name = "stable", .fields = table({{"freeze_at", freeze_at}, {"light_width", 5}, {"balance", balance}})};
}

Tensor* find_parameter(Router& router, std::string_view name) {
  for (const auto& p : parameters_of(router))
    if (p.name == name) return p.tensor;
  return nullptr;
}

// Descent on every loss and on a task that pulls at the weights of the chosen experts.
Routing train_step(Router& router, uint64_t step, int64_t N, int64_t D) {
  auto context = context_of(N, 1, Phase::train);
  context.token_id_N = ids(Random(step).at("ids"), N, 40);
  auto r = router.route(numbers(Random(step).at("x"), {N, D}, -1, 1, at::kDouble), context);
  auto objective = (r.decision.gate_R() * at::arange(r.decision.n_kept())).sum() / static_cast<double>(N);
  for (const auto& l : r.losses) objective = objective + l.value;
  for (const auto& p : parameters_of(router))
    if (p.trained()) p.tensor->mutable_grad() = Tensor();
  objective.backward();
  {
    const at::NoGradGuard no_grad;
    for (const auto& p : parameters_of(router))
      if (p.trained() && p.tensor->grad().defined()) p.tensor->add_(p.tensor->grad(), -0.5);
  }
  router.step();
  return r;
}

}  // namespace

TEST_CASE_FIXTURE(OneThread, "stable: in the first stage the hidden state decides, with the two losses of the paper") {
  const int64_t N = 12, D = 6, E = 3;
  const auto router = make_router(stable(10), D, E, 3, at::kDouble);
  scale_parameters(*router, 3);
  const auto x_ND = numbers(Random(2), {N, D}, -1, 1, at::kDouble);
  auto context = context_of(N, 1, Phase::train);
  context.mask_N = at::arange(N).ne(5);
  const auto r = router->route(x_ND, context);
  const auto logit_NE = at::linear(x_ND, find_parameter(*router, "scorer.of.weight")->detach());
  CHECK(difference(r.scores.score_NE, logit_NE.sigmoid()) < 1e-12);
  const auto token = ints(r.decision.token_R()), expert = ints(r.decision.expert_R());
  const auto gate = reals(r.decision.gate_R()), score = reals(r.scores.score_NE);
  const auto& token_VW = *find_parameter(*router, "scorer.token");
  const auto& centroid_EW = *find_parameter(*router, "scorer.centroid");
  const auto id = ints(context.token_id_N);
  std::vector<double> load(E), own(E);
  double miss = 0, uneven = 0;
  const double mean = 11.0 / 3;
  REQUIRE(token.size() == 11);
  for (size_t i = 0; i < token.size(); ++i) {
    const auto n = static_cast<size_t>(token[i]), e = static_cast<size_t>(expert[i]);
    for (size_t f = 0; f < E; ++f) CHECK(score[n * E + f] <= score[n * E + e]);
    CHECK(gate[i] == doctest::Approx(score[n * E + e]));
    ++load[e], own[e] += score[n * E + e];
    std::vector<double> light(E);
    double sum = 0;
    for (size_t f = 0; f < E; ++f) {
      const auto row = reals(token_VW[id[n] % token_VW.size(0)] * centroid_EW[static_cast<int64_t>(f)]);
      for (const auto v : row) light[f] += v;
      sum += std::exp(light[f]);
    }
    miss -= std::log(std::exp(light[e]) / sum) / 11;
  }
  for (size_t e = 0; e < E; ++e) uneven += (load[e] - mean) / mean * own[e] / 11;
  REQUIRE(r.losses.size() == 2);
  CHECK(r.losses[0].raw == doctest::Approx(uneven).epsilon(1e-10));
  CHECK(r.losses[0].value.item<double>() == doctest::Approx(0.3 * uneven).epsilon(1e-10));
  CHECK(r.losses[1].raw == doctest::Approx(miss).epsilon(1e-10));

  const auto report = check_gradients(
      [&] {
        const auto again = router->route(x_ND, context);
        return Evaluated{again.losses[0].value + again.losses[1].value, choice_of(again.decision)};
      },
      {{"router", *find_parameter(*router, "scorer.of.weight")},
       {"centroid", *find_parameter(*router, "scorer.centroid")}},
      1e-6);
  CHECK(report.is_smooth);
  CHECK_MESSAGE(report.worst < 1e-7, report.where);
  CHECK(report.largest > 1e-3);
}

TEST_CASE_FIXTURE(OneThread,
                  "stable: in the second stage no assignment changes, and the light router gets no gradient") {
  const int64_t N = 64, D = 6, E = 4;
  const auto router = make_router(stable(20), D, E, 3, at::kDouble);
  // The expert of each token id, whatever the hidden states are.
  const auto expert_of_ids = [&](uint64_t seed) {
    auto context = context_of(40);
    context.token_id_N = at::arange(40);
    const auto d = router->route(numbers(Random(seed), {40, D}, -3, 3, at::kDouble), context).decision;
    return at::zeros({40}, at::kLong).index_put({d.token_R()}, d.expert_R());
  };
  for (uint64_t step = 0; step < 20; ++step) {
    const auto r = train_step(*router, step, N, D);
    CHECK(r.losses.size() == 2);
    CHECK(find_parameter(*router, "scorer.token")->grad().defined());
  }
  const auto frozen_V = expert_of_ids(1);
  const auto light = find_parameter(*router, "scorer.token")->detach().clone();
  const auto first = find_parameter(*router, "scorer.of.weight")->detach().clone();
  for (uint64_t step = 20; step < 60; ++step) {
    const auto r = train_step(*router, step, N, D);
    CHECK(r.losses.empty());
    CHECK_FALSE(find_parameter(*router, "scorer.token")->grad().defined());
    CHECK_FALSE(find_parameter(*router, "scorer.centroid")->grad().defined());
    CHECK(at::equal(expert_of_ids(step), frozen_V));
    // No score decides any more, so nothing is said of how close it was.
    CHECK(r.decision.margin_R().isinf().all().item<bool>());
  }
  CHECK(same_bits(*find_parameter(*router, "scorer.token"), light));
  // The weight of the chosen expert goes on learning.
  CHECK_FALSE(same_bits(*find_parameter(*router, "scorer.of.weight"), first));
  CHECK(frozen_V.max().item<int64_t>() > frozen_V.min().item<int64_t>());
}

TEST_CASE_FIXTURE(OneThread, "stable: the light router learns what is a function of the token id") {
  // Hidden states that depend on the id alone: after the first stage the frozen choice is the learned one.
  const int64_t D = 6, E = 4, V = 30;
  const auto router = make_router(stable(400, 0), D, E, 3, at::kDouble);
  scale_parameters(*router, 10);
  const auto x_VD = numbers(Random(2), {V, D}, -1, 1, at::kDouble);
  auto context = context_of(V, 1, Phase::train);
  context.token_id_N = at::arange(V);
  const auto choice_V = [&] {
    const auto d = router->route(x_VD, context).decision;
    return at::zeros({V}, at::kLong).index_put({d.token_R()}, d.expert_R());
  };
  const auto learned_V = choice_V();
  for (int step = 0; step < 400; ++step) {
    for (const auto* name : {"scorer.token", "scorer.centroid"})
      find_parameter(*router, name)->mutable_grad() = Tensor();
    router->route(x_VD, context).losses[1].value.backward();
    {
      const at::NoGradGuard no_grad;
      for (const auto* name : {"scorer.token", "scorer.centroid"})
        find_parameter(*router, name)->add_(find_parameter(*router, name)->grad(), -2);
    }
    router->step();
  }
  CHECK(router->route(x_VD, context).losses.empty());
  CHECK(at::equal(choice_V(), learned_V));
}
