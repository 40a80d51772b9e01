// Competition: who wins, what the router learns from it, and how often experts are asked.
//
// N tokens, D model width, E experts.
#include "tests/support/gradcheck.h"
#include "tests/support/routing.h"

namespace {

using namespace collegium;
using namespace collegium::route;
using namespace collegium::test;

class CountingProbe final : public ExpertProbe {
 public:
  CountingProbe(int64_t E, int64_t D, uint64_t seed) {
    for (int64_t e = 0; e < E; ++e)
      weight_DD.push_back(
          numbers(Random(seed).at(static_cast<uint64_t>(e)), {D, D}, -2, 2, at::kDouble).requires_grad_(true));
  }
  Tensor one(const Tensor& x_RD, int64_t expert) override {
    ++calls;
    return at::linear(x_RD, weight_DD[static_cast<size_t>(expert)].to(x_RD.scalar_type())).tanh();
  }
  Tensor hidden(const Tensor& x_RD, int64_t expert) override { return one(x_RD, expert); }
  std::vector<Tensor> weight_DD;
  int64_t calls = 0;
};

Named compete(double fraction, int64_t k = 2) {
  return {.name = "compete", .fields = table({{"k", k}, {"fraction", fraction}, {"balance_loss", 0.0}})};
}

// softmax over experts of the mean softplus of the output, by loops.
std::vector<double> outcome(CountingProbe& probe, const Tensor& x_ND, size_t E) {
  const at::NoGradGuard no_grad;
  const auto N = static_cast<size_t>(x_ND.size(0)), D = static_cast<size_t>(x_ND.size(1));
  std::vector<double> out(N * E);
  for (size_t e = 0; e < E; ++e) {
    const auto y = reals(probe.one(x_ND, static_cast<int64_t>(e)));
    for (size_t n = 0; n < N; ++n) {
      double sum = 0;
      for (size_t i = 0; i < D; ++i) sum += std::log1p(std::exp(y[n * D + i]));
      out[n * E + e] = std::exp(sum / static_cast<double>(D));
    }
  }
  for (size_t n = 0; n < N; ++n) {
    double sum = 0;
    for (size_t e = 0; e < E; ++e) sum += out[n * E + e];
    for (size_t e = 0; e < E; ++e) out[n * E + e] /= sum;
  }
  return out;
}

}  // namespace

TEST_CASE_FIXTURE(OneThread, "compete: the experts with the strongest response win, and weigh what they won with") {
  const int64_t N = 24, D = 6, E = 5;
  CountingProbe probe(E, D, 4);
  const auto router = make_router(compete(1), D, E, 3, at::kDouble);
  const auto x_ND = numbers(Random(2), {N, D}, -1, 1, at::kDouble);
  auto context = context_of(N, 1, Phase::train);
  context.experts = &probe;
  const auto r = router->route(x_ND, context);
  const auto wanted = outcome(probe, x_ND, E);
  CHECK(difference(r.scores.score_NE, at::tensor(wanted).reshape({N, E})) < 1e-12);
  const auto token = ints(r.decision.token_R()), expert = ints(r.decision.expert_R()), rank = ints(r.decision.rank_R());
  const auto gate = reals(r.decision.gate_R());
  REQUIRE(token.size() == 2 * N);
  for (size_t i = 0; i < token.size(); ++i) {
    const auto* row = wanted.data() + token[i] * E;
    int64_t better = 0;
    std::vector<double> sorted(row, row + E);
    std::sort(sorted.rbegin(), sorted.rend());
    for (int64_t e = 0; e < E; ++e) better += row[e] > row[expert[i]];
    CHECK(better == rank[i]);
    CHECK(gate[i] == doctest::Approx(row[expert[i]] / (sorted[0] + sorted[1])));
  }
}

TEST_CASE_FIXTURE(OneThread,
                  "compete: the router learns the outcome, which is taken as given; masked tokens teach nothing") {
  const int64_t N = 10, D = 4, E = 3;
  CountingProbe probe(E, D, 4);
  const auto router = make_router(compete(1), D, E, 3, at::kDouble);
  auto x_ND = numbers(Random(2), {N, D}, -1, 1, at::kDouble);
  auto context = context_of(N, 1, Phase::train);
  context.experts = &probe, context.mask_N = at::arange(N).remainder(4).ne(1);
  auto& weight_ED = *parameters_of(*router).front().tensor;
  const auto error = [&] {
    const auto r = router->route(x_ND, context);
    REQUIRE(r.losses.size() == 2);
    REQUIRE(r.losses[0].name == "distillation");
    return r.losses[0];
  };
  const auto probability = reals(at::linear(x_ND, weight_ED.detach()).softmax(1)), given = outcome(probe, x_ND, E);
  double wanted = 0, real = 0;
  for (size_t n = 0; n < N; ++n) {
    if (n % 4 == 1) continue;
    ++real;
    for (size_t e = 0; e < E; ++e) wanted += std::pow(probability[n * E + e] - given[n * E + e], 2) / E;
  }
  CHECK(error().raw == doctest::Approx(wanted / real).epsilon(1e-12));
  const auto report = check_gradients([&] { return Evaluated{error().value, {}}; }, {{"router", weight_ED}}, 1e-6);
  CHECK_MESSAGE(report.worst < 1e-8, report.where);
  CHECK(report.largest > 1e-4);
  error().value.backward();
  for (const auto& w : probe.weight_DD) CHECK_FALSE(w.grad().defined());

  // Descent on the loss alone makes the router agree with the competition.
  context.mask_N = Tensor();
  const auto agreement = [&] { return router->route(x_ND, context).losses[1].raw; };
  const auto before = agreement();
  for (int step = 0; step < 3000; ++step) {
    weight_ED.mutable_grad() = Tensor();
    error().value.backward();
    const at::NoGradGuard no_grad;
    weight_ED.add_(weight_ED.grad(), -20);
  }
  CHECK(before < 0.8);
  CHECK(agreement() > before);
}

TEST_CASE_FIXTURE(OneThread, "compete: all experts are asked on scheduled steps only, by the fraction wanted") {
  const int64_t N = 5, D = 4, E = 3;
  CountingProbe probe(E, D, 4);
  const auto router = make_router(compete(0.25), D, E, 3, at::kDouble);
  const auto x_ND = numbers(Random(2), {N, D}, -1, 1, at::kDouble);
  int64_t steps = 0;
  for (uint64_t step = 0; step < 1000; ++step) {
    auto context = context_of(N, 1, Phase::train);
    context.experts = &probe, context.random = Random(step);
    probe.calls = 0;
    const auto first = router->route(x_ND, context);
    const bool competed = probe.calls > 0;
    CHECK((probe.calls == 0 || probe.calls == E));
    CHECK(first.losses.empty() == !competed);
    steps += competed;
    // The pass recomputed for the backward pass is the same; evaluation never asks.
    context.phase = Phase::recompute, probe.calls = 0;
    CHECK(same_decision(router->route(x_ND, context).decision, first.decision));
    CHECK(probe.calls == (competed ? E : 0));
    context.phase = Phase::evaluate, probe.calls = 0;
    router->route(x_ND, context);
    CHECK(probe.calls == 0);
  }
  CHECK(steps == doctest::Approx(250).epsilon(0.15));
}

TEST_CASE_FIXTURE(OneThread, "compete: only softmax routers are taught") {
  CHECK(complaint([] {
          make_router(stages({{"scorer", table({{"name", "competition"},
                                                {"of", table({{"name", "linear"}, {"activation", "sigmoid"}})}})}}),
                      4, 3);
        }) == "competition: the imitating router 'linear' must give softmax scores");
}
