// Selective Sinkhorn: marginals of the plan, the plan against scaling a matrix by hand, the share of passes, gradients
// through the iterations.
//
// N tokens, D model width, E experts.
#include "collegium/kernels/softmax.h"
#include "tests/support/gradcheck.h"
#include "tests/support/routing.h"

namespace {

using namespace collegium;
using namespace collegium::route;
using namespace collegium::test;

std::unique_ptr<Router> sinkhorn(double share, int64_t iterations, double epsilon, int64_t D, int64_t E) {
  auto router = make_router({.name = "selective_sinkhorn",
                             .fields = table({{"share", share}, {"iterations", iterations}, {"epsilon", epsilon}})},
                            D, E, 3, at::kDouble);
  scale_parameters(*router, 6);
  return router;
}

// Tokens that lean to some experts.
Tensor leaning(int64_t N, int64_t D) {
  auto x_ND = numbers(Random(1), {N, D}, -1, 1, at::kDouble);
  x_ND.select(1, 0).add_(1);
  return x_ND;
}

}  // namespace

TEST_CASE_FIXTURE(OneThread, "the plan has the marginals it should: one a token, N / E an expert") {
  const int64_t N = 50, D = 4, E = 6;
  const auto router = sinkhorn(1, 200, 1, D, E);
  const auto training = router->route(leaning(N, D), context_of(N, 1, Phase::train));
  const auto plan_NE = training.scores.score_NE.detach();
  CHECK(difference(plan_NE.sum(1), at::ones({N}, at::kDouble)) < 1e-12);
  CHECK(difference(plan_NE.sum(0), at::full({E}, static_cast<double>(N) / E, at::kDouble)) < 1e-6);
  // Softmax alone is far from that, and is what evaluation uses.
  const auto evaluation = router->route(leaning(N, D), context_of(N));
  CHECK(same_bits(evaluation.scores.score_NE.detach(), kernels::softmax(evaluation.scores.logit_NE).detach()));
  CHECK(difference(evaluation.scores.score_NE.sum(0), at::full({E}, static_cast<double>(N) / E, at::kDouble)) > 0.3);
  CHECK(training.losses.empty());
}

TEST_CASE_FIXTURE(OneThread, "the plan is plain Sinkhorn: rows and columns of exp(logit / epsilon) scaled in turn") {
  const int64_t N = 9, D = 4, E = 3, rounds = 7;
  const double epsilon = 0.7;
  const auto router = sinkhorn(1, rounds, epsilon, D, E);
  auto context = context_of(N, 1, Phase::train);
  context.mask_N = at::arange(N).ne(4);
  const auto routing = router->route(leaning(N, D), context);
  const auto logit = reals(routing.scores.logit_NE), got = reals(routing.scores.score_NE);
  std::vector<std::vector<double>> p;
  for (int64_t n = 0; n < N; ++n) {
    if (n == 4) continue;
    p.emplace_back();
    for (int64_t e = 0; e < E; ++e) p.back().push_back(std::exp(logit[static_cast<size_t>(n * E + e)] / epsilon));
  }
  const auto scale_rows = [&] {
    for (auto& row : p) {
      double sum = 0;
      for (const auto v : row) sum += v;
      for (auto& v : row) v /= sum;
    }
  };
  scale_rows();
  for (int64_t i = 0; i < rounds; ++i) {
    for (size_t e = 0; e < static_cast<size_t>(E); ++e) {
      double sum = 0;
      for (const auto& row : p) sum += row[e];
      for (auto& row : p) row[e] *= static_cast<double>(p.size()) / static_cast<double>(E) / sum;
    }
    scale_rows();
  }
  size_t r = 0;
  for (int64_t n = 0; n < N; ++n) {
    if (n == 4) continue;
    for (size_t e = 0; e < static_cast<size_t>(E); ++e)
      CHECK(got[static_cast<size_t>(n * E) + e] == doctest::Approx(p[r][e]).epsilon(1e-10));
    ++r;
  }
}

TEST_CASE_FIXTURE(OneThread, "Sinkhorn runs in the share of passes that was asked for, the same ones in a recompute") {
  const int64_t N = 8, D = 3, E = 4;
  for (const double share : {0.0, 0.25, 1.0}) {
    CAPTURE(share);
    const auto router = sinkhorn(share, 2, 0.5, D, E);
    int64_t planned = 0;
    const int64_t passes = 400;
    for (int64_t i = 0; i < passes; ++i) {
      auto context = context_of(N, 1, Phase::train);
      context.random = Random(11).at(static_cast<uint64_t>(i));
      const auto scores = router->route(leaning(N, D), context).scores;
      planned += !same_bits(scores.score_NE.detach(), kernels::softmax(scores.logit_NE).detach());
      context.phase = Phase::recompute;
      CHECK(same_bits(router->route(leaning(N, D), context).scores.score_NE.detach(), scores.score_NE.detach()));
    }
    CHECK(static_cast<double>(planned) / passes == doctest::Approx(share).epsilon(0.2));
    CHECK(router->facts().is_causal);
    CHECK(router->facts().is_causal_in_training == (share == 0));
  }
}

TEST_CASE_FIXTURE(OneThread, "the plan evens out the load of a router that leans to one side") {
  const int64_t N = 400, D = 4, E = 4;
  const auto router = sinkhorn(1, 50, 0.2, D, E);
  auto x_ND = leaning(N, D);
  x_ND.select(1, 0).add_(2);
  const auto largest = [&](Phase phase) {
    return router->route(x_ND, context_of(N, 1, phase)).decision.kept_E().max().item<double>() / (2.0 * N / E);
  };
  CHECK(largest(Phase::evaluate) > 1.4);
  CHECK(largest(Phase::train) < 1.25);
}

TEST_CASE_FIXTURE(OneThread, "gradients through the Sinkhorn iterations") {
  const int64_t N = 5, D = 3, E = 3;
  const auto router = sinkhorn(1, 4, 0.8, D, E);
  auto x_ND = numbers(Random(5), {N, D}, -1, 1, at::kDouble).requires_grad_(true);
  const auto report = check_gradients(
      [&] {
        const auto r = router->route(x_ND, context_of(N, 1, Phase::train));
        return Evaluated{at::cat({r.decision.gate_R(), r.scores.score_NE.reshape({-1})}), choice_of(r.decision)};
      },
      {{"x", x_ND}, {"weight", *parameters_of(*router).front().tensor}});
  CHECK(report.is_smooth);
  CHECK_MESSAGE(report.worst < 1e-6, report.where);
  CHECK(report.largest > 1e-2);
}

TEST_CASE_FIXTURE(OneThread, "Sinkhorn over scores that are no distribution is refused") {
  const auto refuse = [](const Table& of) {
    Composition c;
    c.scorer = {.name = "sinkhorn", .fields = table({{"of", of}})};
    return complaint([&] { Router::compose(c, {.d_model = 4, .n_experts = 4, .options = at::kFloat}, ""); });
  };
  CHECK(refuse(table({{"name", "none"}})).find("must give softmax scores") != std::string::npos);
  CHECK(refuse(table({{"name", "linear"}, {"activation", "relu"}})).find("must give softmax scores") !=
        std::string::npos);
  CHECK(refuse(table({{"name", "linear"}})).empty());
}
