// Cosine scores: their value from the definition, their bound, what they do not see, and their derivatives.
//
// N tokens, D model width, E experts, P projected width.
#include "tests/support/gradcheck.h"
#include "tests/support/routing.h"

namespace {

using namespace collegium;
using namespace collegium::route;
using namespace collegium::test;

constexpr int64_t kTokens = 9, kWidth = 6, kExperts = 5;

std::unique_ptr<Scorer> cosine(std::initializer_list<std::pair<std::string, Value>> fields = {},
                               at::ScalarType type = at::kDouble) {
  const Named named{.name = "cosine", .fields = table(fields)};
  return find(scorers(), named, "scorer")
      .make(named, {.d_model = kWidth, .n_experts = kExperts, .random = Random(4), .options = type});
}

Tensor& parameter(Scorer& scorer, std::string_view name) {
  for (const auto& p : parameters_of(scorer))
    if (p.name == name) return *p.tensor;
  throw std::runtime_error("no such parameter");
}

}  // namespace

TEST_CASE("cosine scores are the cosine of projected token and expert, over the temperature") {
  for (const double temperature : {0.07, 0.5}) {
    const auto scorer = cosine({{"temperature", temperature}});
    const double learned = 0.3;
    {
      const at::NoGradGuard no_grad;
      parameter(*scorer, "log_temperature").fill_(learned);
    }
    const auto x_ND = numbers(Random(1), {kTokens, kWidth}, -1, 1, at::kDouble);
    const auto got = reals(scorer->score(x_ND, context_of(kTokens)).logit_NE);
    const auto x = reals(x_ND), project = reals(parameter(*scorer, "project")),
               weight = reals(parameter(*scorer, "weight"));
    const size_t P = 3, D = kWidth, E = kExperts;  // half of five experts, rounded up
    REQUIRE(project.size() == P * D);
    for (size_t n = 0; n < kTokens; ++n)
      for (size_t e = 0; e < E; ++e) {
        double inner = 0, a = 0, b = 0;
        for (size_t p = 0; p < P; ++p) {
          double low = 0;
          for (size_t d = 0; d < D; ++d) low += x[n * D + d] * project[p * D + d];
          inner += low * weight[e * P + p], a += low * low, b += weight[e * P + p] * weight[e * P + p];
        }
        CHECK(got[n * E + e] == doctest::Approx(inner / std::sqrt(a * b) / (temperature * std::exp(learned))));
      }
  }
}

TEST_CASE("cosine scores do not see a token's length, nor an expert's, and are bounded by the temperature") {
  const auto scorer = cosine();
  const auto x_ND = numbers(Random(1), {kTokens, kWidth}, -1, 1, at::kDouble);
  const auto logit_NE = scorer->score(x_ND, context_of(kTokens)).logit_NE.detach();
  for (const double factor : {1e-3, 0.25, 7.0, 1e4})
    CHECK(difference(scorer->score(x_ND * factor, context_of(kTokens)).logit_NE, logit_NE) < 1e-12);
  CHECK(difference(scorer->score(-x_ND, context_of(kTokens)).logit_NE, -logit_NE) < 1e-12);
  CHECK(logit_NE.abs().max().item<double>() <= 1 / 0.07 + 1e-9);
  {
    const at::NoGradGuard no_grad;
    parameter(*scorer, "weight").mul_(numbers(Random(8), {kExperts, 1}, 0.1, 9, at::kDouble));
    parameter(*scorer, "project").mul_(3);
  }
  CHECK(difference(scorer->score(x_ND, context_of(kTokens)).logit_NE, logit_NE) < 1e-12);
  // The bound is met: a token that points where an expert does.
  const auto exact = cosine({{"dimension", kWidth}});
  {
    const at::NoGradGuard no_grad;
    parameter(*exact, "project").copy_(at::eye(kWidth, at::kDouble));
  }
  const auto met = exact->score(parameter(*exact, "weight").detach() * 0.01, context_of(kExperts)).logit_NE.diagonal();
  CHECK(difference(met, at::full({kExperts}, 1 / 0.07, at::kDouble)) < 1e-12);
}

TEST_CASE("cosine scores of a zero token are even, and finite in their gradient") {
  const auto scorer = cosine();
  auto x_ND = at::zeros({2, kWidth}, at::kDouble).requires_grad_(true);
  const auto out = scorer->score(x_ND, context_of(2));
  CHECK(difference(out.score_NE, at::full({2, kExperts}, 1.0 / kExperts, at::kDouble)) < 1e-12);
  out.score_NE.square().sum().backward();
  CHECK(x_ND.grad().isfinite().all().item<bool>());
}

TEST_CASE("derivatives of cosine scores, the temperature's included") {
  for (const auto* activation : {"softmax", "sigmoid"}) {
    CAPTURE(activation);
    const auto scorer = cosine({{"activation", activation}, {"temperature", 0.5}});
    auto x_ND = numbers(Random(1), {4, kWidth}, -1, 1, at::kDouble).requires_grad_(true);
    std::vector<Variable> variables = {{"x", x_ND}};
    for (const auto& p : parameters_of(*scorer)) variables.push_back({p.name, *p.tensor});
    REQUIRE(variables.size() == 4);
    const auto report =
        check_gradients([&] { return Evaluated{scorer->score(x_ND, context_of(4)).score_NE, Tensor()}; }, variables);
    CAPTURE(report.where);
    CHECK(report.worst < 1e-7);
    CHECK(report.largest > 1e-2);
  }
}

TEST_CASE("cosine scores refuse ReLU, half of which would never choose") {
  CHECK(complaint([] { cosine({{"activation", "relu"}}); }).find("softmax or sigmoid") != std::string::npos);
}
