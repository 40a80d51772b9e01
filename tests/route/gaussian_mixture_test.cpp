// The mixture that routes: its likelihood by hand, and no gradient between it and the task, exactly.
//
// N tokens, D model width, E experts.
#include "tests/support/gradcheck.h"
#include "tests/support/routing.h"

namespace {

using namespace collegium;
using namespace collegium::route;
using namespace collegium::test;

constexpr int64_t kTokens = 7, kWidth = 4, kExperts = 3;

std::unique_ptr<Scorer> mixture(std::initializer_list<std::pair<std::string, Value>> fields = {}) {
  const Named named{.name = "gaussian_mixture", .fields = table(fields)};
  auto made = find(scorers(), named, "scorer")
                  .make(named, {.d_model = kWidth, .n_experts = kExperts, .random = Random(4), .options = at::kDouble});
  const at::NoGradGuard no_grad;
  for (const auto& p : parameters_of(*made))
    if (p.trained()) p.tensor->copy_(numbers(Random(4).at(p.name), p.tensor->sizes(), -1, 1, at::kDouble));
  return made;
}

Tensor* find_tensor(Scorer& scorer, std::string_view name) {
  for (const auto& p : parameters_of(scorer))
    if (p.name == name) return p.tensor;
  return nullptr;
}

Tensor hidden(int64_t n = kTokens) {
  return numbers(Random(1), {n, kWidth}, -2, 2, at::kDouble);
}

}  // namespace

TEST_CASE("responsibilities and likelihood of the mixture equal a plain computation") {
  for (const bool learns_weights : {false, true})
    for (const int64_t dimension : {0, 2}) {
      CAPTURE(learns_weights);
      CAPTURE(dimension);
      const double coefficient = 0.3, floor = 0.05;
      const auto scorer = mixture({{"learn_weights", learns_weights},
                                   {"dimension", dimension},
                                   {"coefficient", coefficient},
                                   {"min_variance", floor}});
      auto context = context_of(kTokens);
      context.mask_N = at::tensor(std::vector<int64_t>{1, 1, 0, 1, 1, 1, 0}).to(at::kBool);
      const auto x_ND = hidden();
      const auto out = scorer->score(x_ND, context);
      const auto got = reals(out.score_NE), x = reals(x_ND);
      const auto mean = reals(*find_tensor(*scorer, "mean")),
                 log_variance = reals(*find_tensor(*scorer, "log_variance"));
      const size_t E = kExperts, D = kWidth, P = dimension ? static_cast<size_t>(dimension) : D;
      std::vector<double> weight(E, 1.0 / kExperts);
      CHECK((find_tensor(*scorer, "log_weight") != nullptr) == learns_weights);
      if (learns_weights) weight = reals(find_tensor(*scorer, "log_weight")->softmax(-1));
      double nll = 0;
      for (size_t n = 0; n < kTokens; ++n) {
        double square = 0;
        for (size_t d = 0; d < D; ++d) square += x[n * D + d] * x[n * D + d];
        const auto length = std::sqrt(square / static_cast<double>(D) + 1e-6);
        std::vector<double> point(P);
        const auto project = dimension ? reals(*find_tensor(*scorer, "project")) : std::vector<double>();
        for (size_t p = 0; p < P; ++p)
          for (size_t d = 0; d < D; ++d)
            point[p] += (dimension ? project[p * D + d] : double(p == d)) * x[n * D + d] / length;
        std::vector<double> joint(E);
        double sum = 0;
        for (size_t e = 0; e < E; ++e) {
          joint[e] = weight[e];
          for (size_t p = 0; p < P; ++p) {
            const auto variance = std::exp(log_variance[e * P + p]) + floor, off = point[p] - mean[e * P + p];
            joint[e] *= std::exp(-off * off / (2 * variance)) / std::sqrt(2 * 3.14159265358979323846 * variance);
          }
          sum += joint[e];
        }
        for (size_t e = 0; e < E; ++e) CHECK(got[n * E + e] == doctest::Approx(joint[e] / sum));
        if (n != 2 && n != 6) nll -= std::log(sum) / 5;
      }
      REQUIRE(out.losses.size() == 1);
      CHECK(out.losses[0].raw == doctest::Approx(nll));
      CHECK(out.losses[0].value.item<double>() == doctest::Approx(nll * coefficient / static_cast<double>(P)));
    }
}

TEST_CASE("no gradient of the task reaches the mixture, and none reaches the tokens through it") {
  const auto scorer = mixture({{"learn_weights", true}, {"dimension", 2}});
  auto x_ND = hidden().requires_grad_(true);
  const auto out = scorer->score(x_ND, context_of(kTokens));
  CHECK_FALSE(out.score_NE.requires_grad());
  CHECK_FALSE(out.logit_NE.requires_grad());
  CHECK_FALSE(scorer->claims().learns_from_task);

  // The whole router, with every balancer that takes it: only the mixture's own loss has a gradient, and only there.
  const Named named = stages({{"scorer", table({{"name", "gaussian_mixture"}})},
                              {"balancers", List{table({{"name", "balance_loss"}}), table({{"name", "z_loss"}})}}});
  const auto router = make_router(named, kWidth, kExperts, 3, at::kDouble);
  CHECK_FALSE(router->facts().learns_from_task);
  const auto r = router->route(x_ND, context_of(kTokens, 1, Phase::train));
  // A task: experts that multiply, and gates that weigh.
  const auto task = (r.decision.gate_R().unsqueeze(1) * x_ND.index_select(0, r.decision.token_R())).square().sum();
  task.backward();
  for (const auto& p : parameters_of(*router)) CHECK_FALSE(p.tensor->grad().defined());
  CHECK(x_ND.grad().abs().sum().item<double>() > 0);  // through the experts alone:
  const auto gate_R = r.decision.gate_R().detach().clone();
  auto again_ND = hidden().requires_grad_(true);
  (gate_R.unsqueeze(1) * again_ND.index_select(0, r.decision.token_R())).square().sum().backward();
  CHECK(same_bits(again_ND.grad(), x_ND.grad()));

  x_ND.mutable_grad() = Tensor();
  REQUIRE(r.losses.size() == 3);
  for (const auto& l : r.losses) CHECK(l.value.requires_grad() == (l.name == "mixture_nll"));
  r.losses[0].value.backward();
  CHECK_FALSE(x_ND.grad().defined());
  for (const auto& p : parameters_of(*router)) CHECK(p.tensor->grad().abs().max().item<double>() > 0);
}

TEST_CASE("derivatives of the mixture's own loss") {
  const auto scorer = mixture({{"learn_weights", true}});
  std::vector<Variable> variables;
  for (const auto& p : parameters_of(*scorer)) variables.push_back({p.name, *p.tensor});
  REQUIRE(variables.size() == 3);
  auto context = context_of(kTokens);
  context.mask_N = at::tensor(std::vector<int64_t>{1, 1, 0, 1, 1, 1, 0}).to(at::kBool);
  const auto report =
      check_gradients([&] { return Evaluated{scorer->score(hidden(), context).losses[0].value, Tensor()}; }, variables);
  CAPTURE(report.where);
  CHECK(report.worst < 1e-8);
  CHECK(report.largest > 1e-4);
}

TEST_CASE("gradient descent on the likelihood alone finds clusters and uses every expert") {
  // Three clusters of directions; the mixture starts with all means near zero.
  const auto centre_CD = at::eye(kWidth, at::kDouble).slice(0, 0, kExperts) * 3;
  const auto cluster_N = at::arange(60).remainder(kExperts);
  const auto x_ND = centre_CD.index_select(0, cluster_N) + numbers(Random(5), {60, kWidth}, -0.3, 0.3, at::kDouble);
  const auto router = make_router({.name = "domain_aware", .fields = table({{"k", 1}, {"coefficient", 1.0}})}, kWidth,
                                  kExperts, 3, at::kDouble);
  double first = 0, last = 0;
  for (int step = 0; step < 400; ++step) {
    const auto r = router->route(x_ND, context_of(60, 1, Phase::train));
    last = r.losses[0].raw;
    if (step == 0) first = last;
    r.losses[0].value.backward();
    const at::NoGradGuard no_grad;
    for (const auto& p : parameters_of(*router)) {
      p.tensor->add_(p.tensor->grad(), -0.3);
      p.tensor->mutable_grad() = Tensor();
    }
  }
  CHECK(last < first - 1);
  const auto d = router->route(x_ND, context_of(60)).decision;
  CHECK(ints(d.kept_E()) == std::vector<int64_t>{20, 20, 20});
  // Tokens of one cluster share an expert.
  const auto cluster_R = cluster_N.index_select(0, d.token_R());
  for (int64_t e = 0; e < kExperts; ++e) {
    const auto mine = cluster_R.masked_select(d.expert_R().eq(e));
    CHECK(mine.max().item<int64_t>() == mine.min().item<int64_t>());
  }
}
