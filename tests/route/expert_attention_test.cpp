// The attention router: equal to a loop over tokens and experts, in values and derivatives.
//
// N tokens, D model width, E experts.
#include "tests/support/gradcheck.h"
#include "tests/support/routing.h"

namespace {

using namespace collegium;
using namespace collegium::route;
using namespace collegium::test;

std::unique_ptr<Scorer> attention(int64_t D, int64_t E, at::ScalarType type = at::kDouble) {
  const Named named{.name = "expert_attention"};
  return find(scorers(), named, "scorer")
      .make(named, {.d_model = D, .n_experts = E, .random = Random(4), .options = type});
}

}  // namespace

TEST_CASE("experts attend to each other as a loop over tokens and experts says") {
  for (const int64_t n_experts : {1, 4, 7}) {
    const int64_t n_tokens = 9, width = 6;
    const auto scorer = attention(width, n_experts);
    const auto all = parameters_of(*scorer);
    REQUIRE(all.size() == 1);
    // The published layout: queries, then keys, then values.
    CHECK(all[0].name == "query_key_value");
    CHECK((all[0].tensor->sizes() == at::IntArrayRef{3 * n_experts, width}));
    const auto x_ND = numbers(Random(1), {n_tokens, width}, -2, 2, at::kDouble);
    const auto out = scorer->score(x_ND, context_of(n_tokens));
    const auto got = reals(out.logit_NE), score = reals(out.score_NE);
    const auto x = reals(x_ND), weight = reals(*all[0].tensor);
    const auto E = static_cast<size_t>(n_experts), D = static_cast<size_t>(width);
    for (size_t n = 0; n < static_cast<size_t>(n_tokens); ++n) {
      std::vector<double> qkv(3 * E);
      for (size_t r = 0; r < 3 * E; ++r)
        for (size_t d = 0; d < D; ++d) qkv[r] += x[n * D + d] * weight[r * D + d];
      std::vector<double> logit(E);
      double total = 0;
      for (size_t i = 0; i < E; ++i) {
        double sum = 0;
        for (size_t j = 0; j < E; ++j) sum += std::exp(qkv[i] * qkv[E + j]);
        for (size_t j = 0; j < E; ++j) logit[i] += std::exp(qkv[i] * qkv[E + j]) / sum * qkv[2 * E + j];
        total += std::exp(logit[i]);
      }
      for (size_t i = 0; i < E; ++i) {
        CHECK(got[n * E + i] == doctest::Approx(logit[i]));
        CHECK(score[n * E + i] == doctest::Approx(std::exp(logit[i]) / total));
      }
    }
  }
}

TEST_CASE("derivatives of expert attention") {
  const int64_t D = 3, E = 4;
  const auto scorer = attention(D, E);
  auto x_ND = numbers(Random(1), {3, D}, -2, 2, at::kDouble).requires_grad_(true);
  const auto report = check_gradients([&] { return Evaluated{scorer->score(x_ND, context_of(3)).logit_NE, Tensor()}; },
                                      {{"x", x_ND}, {"query_key_value", *parameters_of(*scorer)[0].tensor}});
  CAPTURE(report.where);
  CHECK(report.worst < 1e-8);
  CHECK(report.largest > 0.1);
}

TEST_CASE("expert attention stays finite where every logit is large") {
  const auto scorer = attention(3, 4, at::kFloat);
  auto x_ND = (numbers(Random(1), {3, 3}) * 1e3).requires_grad_(true);
  const auto out = scorer->score(x_ND, context_of(3));
  out.score_NE.square().sum().backward();
  CHECK(out.logit_NE.isfinite().all().item<bool>());
  CHECK(x_ND.grad().isfinite().all().item<bool>());
}
