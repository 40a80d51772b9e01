// Balance losses and the z-loss against their formulas, their minima and their conversions.
//
// N tokens, E experts, K choices.
#include "collegium/route/losses.h"

#include "tests/support/gradcheck.h"
#include "tests/support/routing.h"

namespace {

using namespace collegium;
using namespace collegium::route;
using namespace collegium::test;

Scores softmax_scores(const Tensor& logit_NE) {
  Scores s;
  s.logit_NE = logit_NE, s.score_NE = logit_NE.softmax(-1), s.kind = ScoreKind::softmax;
  s.n_tokens = logit_NE.size(0), s.n_experts = logit_NE.size(1);
  return s;
}

// Token n asks for experts n, n + 1, … n + K - 1, modulo E: perfectly even when E divides N.
Decision even_decision(int64_t N, int64_t E, int64_t K) {
  const auto token_A = at::arange(N).repeat_interleave(K), rank_A = at::arange(K).repeat({N});
  const auto ones = at::ones({N * K}, at::kDouble);
  return Decision::make({token_A, (token_A + rank_A).remainder(E), rank_A, ones, ones}, N, E).with_gates(ones);
}

Decision all_on(int64_t expert, int64_t N, int64_t E) {
  const auto ones = at::ones({N}, at::kDouble), zeros = at::zeros({N}, at::kLong);
  return Decision::make({at::arange(N), zeros + expert, zeros, ones, ones}, N, E).with_gates(ones);
}

double value(const Tensor& t) {
  return t.item<double>();
}

constexpr LossConvention kConventions[] = {LossConvention::switch_, LossConvention::hf_pooled, LossConvention::gshard};

double minimum(LossConvention convention, int64_t E, int64_t K) {
  const auto dE = static_cast<double>(E);
  return convention == LossConvention::switch_     ? 1
         : convention == LossConvention::hf_pooled ? static_cast<double>(K)
                                                   : 1 / (dE * dE);
}

}  // namespace

TEST_CASE("a uniform router reaches each convention's minimum") {
  for (const int64_t E : {2, 4, 8})
    for (const int64_t K : {int64_t{1}, int64_t{2}})
      for (const auto scope : {LossScope::batch, LossScope::sequence}) {
        const auto scores = softmax_scores(at::zeros({3 * E, E}, at::kDouble));
        const auto decision = even_decision(3 * E, E, K);
        auto context = context_of(3 * E, 3);
        for (const auto convention : kConventions)
          CHECK(value(balance_loss(scores, decision, context, convention, scope)) ==
                doctest::Approx(minimum(convention, E, K)).epsilon(1e-14));
      }
}

TEST_CASE("any other load and probability that agree lie above the minimum") {
  const int64_t N = 12, E = 4;
  for (uint64_t seed = 0; seed < 5; ++seed) {
    const auto router = make_router(Named{.name = "top_k", .fields = table({{"k", 1}})}, 6, E, seed, at::kDouble);
    scale_parameters(*router, 6);
    const auto r = router->route(numbers(Random(seed), {N, 6}, -1, 1, at::kDouble), context_of(N));
    for (const auto convention : kConventions)
      CHECK(value(balance_loss(r.scores, r.decision, context_of(N), convention)) > minimum(convention, E, 1));
    // All on one expert, and sure of it: E times the minimum.
    auto sure = at::full({N, E}, -100.0, at::kDouble);
    sure.select(1, 2).fill_(100);
    for (const auto convention : kConventions)
      CHECK(value(balance_loss(softmax_scores(sure), all_on(2, N, E), context_of(N), convention)) ==
            doctest::Approx(minimum(convention, E, 1) * static_cast<double>(E)));
  }
}

TEST_CASE("conversion factors are exact") {
  const int64_t N = 10, E = 4;
  for (const int64_t K : {1, 2, 3}) {
    const auto router = make_router(Named{.name = "top_k", .fields = table({{"k", K}})}, 6, E, 3, at::kDouble);
    scale_parameters(*router, 6);
    const auto r = router->route(numbers(Random(8), {N, 6}, -1, 1, at::kDouble), context_of(N));
    for (const auto from : kConventions)
      for (const auto to : kConventions) {
        if (K > 1 && from != to && (from == LossConvention::gshard || to == LossConvention::gshard)) {
          CHECK(complaint([&] { conversion_factor(from, to, E, K); }) ==
                text("conversion_factor: gshard counts first choices only, so it converts exactly for k = 1, got k = ",
                     K));
          continue;
        }
        const auto a = value(balance_loss(r.scores, r.decision, context_of(N), from));
        const auto b = value(balance_loss(r.scores, r.decision, context_of(N), to));
        CHECK(a * conversion_factor(from, to, E, K) == doctest::Approx(b).epsilon(1e-12));
      }
  }
}

TEST_CASE("losses of sequences are averaged over those with real tokens") {
  const int64_t N = 12, E = 4;
  const auto router = make_router(Named{.name = "top_k"}, 6, E, 3, at::kDouble);
  scale_parameters(*router, 6);
  const auto x_ND = numbers(Random(8), {N, 6}, -1, 1, at::kDouble);
  auto context = context_of(N, 3);
  context.mask_N = at::arange(N).lt(7);  // 4 real tokens, 3, none
  const auto all = router->route(x_ND, context);
  for (const auto convention : kConventions) {
    double sum = 0;
    for (const auto& [from, to] : {std::pair<int64_t, int64_t>{0, 4}, {4, 7}}) {
      const auto part = router->route(x_ND.slice(0, from, to), context_of(to - from));
      sum += value(balance_loss(part.scores, part.decision, context_of(to - from), convention));
    }
    CHECK(value(balance_loss(all.scores, all.decision, context, convention, LossScope::sequence)) ==
          doctest::Approx(sum / 2).epsilon(1e-12));
  }
}

TEST_CASE("no real token gives zero, not a division by it") {
  const auto scores = softmax_scores(at::zeros({4, 3}, at::kDouble));
  const auto none = at::empty({0}, at::kLong), none_score = at::empty({0}, at::kDouble);
  const auto decision = Decision::make({none, none, none, none_score, none_score}, 4, 3).with_gates(none_score);
  auto context = context_of(4);
  context.mask_N = at::zeros({4}, at::kBool);
  for (const auto convention : kConventions) CHECK(value(balance_loss(scores, decision, context, convention)) == 0);
  CHECK(value(z_loss(scores, context)) == 0);
  CHECK(value(hf_pooled_loss({{&scores, &decision}}, context)) == 0);
}

TEST_CASE("transformers' loss pools layers before it multiplies") {
  const int64_t N = 8, E = 4;
  const auto r = [&](uint64_t seed) {
    const auto router = make_router(Named{.name = "top_k"}, 6, E, seed, at::kDouble);
    scale_parameters(*router, 6);
    return router->route(numbers(Random(8), {N, 6}, -1, 1, at::kDouble), context_of(N));
  };
  const auto a = r(1), b = r(2);
  const auto context = context_of(N);
  CHECK(value(hf_pooled_loss({{&a.scores, &a.decision}}, context)) ==
        doctest::Approx(value(balance_loss(a.scores, a.decision, context, LossConvention::hf_pooled))).epsilon(1e-12));
  // By hand: counts and probabilities of both layers over the rows of both.
  std::vector<double> count(E), mean(E);
  for (const auto* layer : {&a, &b}) {
    const auto asked = ints(layer->decision.asked_E());
    const auto sum = reals(layer->scores.score_NE.sum(0));
    for (size_t e = 0; e < count.size(); ++e) count[e] += static_cast<double>(asked[e]), mean[e] += sum[e];
  }
  double wanted = 0;
  for (size_t e = 0; e < count.size(); ++e) wanted += static_cast<double>(E) * count[e] / 16 * mean[e] / 16;
  CHECK(value(hf_pooled_loss({{&a.scores, &a.decision}, {&b.scores, &b.decision}}, context)) ==
        doctest::Approx(wanted).epsilon(1e-12));
  // Opposite imbalances cancel in the pool, and nowhere else.
  auto sure = at::full({N, 2}, -50.0, at::kDouble), other = sure.clone();
  sure.select(1, 0).fill_(50), other.select(1, 1).fill_(50);
  const auto left = softmax_scores(sure), right = softmax_scores(other);
  const auto on_left = all_on(0, N, 2), on_right = all_on(1, N, 2);
  CHECK(value(hf_pooled_loss({{&left, &on_left}, {&right, &on_right}}, context)) == doctest::Approx(1));
  CHECK(value(hf_pooled_loss({{&left, &on_left}}, context)) == doctest::Approx(2));
  CHECK(complaint([&] { hf_pooled_loss({}, context); }) == "hf_pooled_loss: needs at least one layer");
}

TEST_CASE("the z-loss is the mean square of logsumexp over real tokens") {
  const auto logit_NE = numbers(Random(4), {5, 3}, -2, 2, at::kDouble);
  auto context = context_of(5);
  context.mask_N = at::tensor(std::vector<int64_t>{1, 0, 1, 1, 0}).to(at::kBool);
  const auto logit = reals(logit_NE);
  double all = 0, real = 0;
  for (size_t n = 0; n < 5; ++n) {
    const auto z = std::log(std::exp(logit[3 * n]) + std::exp(logit[3 * n + 1]) + std::exp(logit[3 * n + 2]));
    all += z * z / 5;
    if (n != 1 && n != 4) real += z * z / 3;
  }
  CHECK(value(z_loss(softmax_scores(logit_NE), context_of(5))) == doctest::Approx(all).epsilon(1e-12));
  CHECK(value(z_loss(softmax_scores(logit_NE), context)) == doctest::Approx(real).epsilon(1e-12));
}

TEST_CASE("derivatives of the losses by the logits, for every kind of score") {
  const Threads one(1);
  const int64_t N = 5, E = 3;
  const auto decision = even_decision(N, E, 2);
  auto context = context_of(N, 1);
  context.mask_N = at::arange(N).ne(3);
  for (const auto kind : {ScoreKind::softmax, ScoreKind::sigmoid, ScoreKind::relu}) {
    CAPTURE(static_cast<int>(kind));
    auto logit_NE = numbers(Random(4), {N, E}, -1, 1, at::kDouble);
    logit_NE.select(0, 1).fill_(-1);  // under ReLU a token without any score
    logit_NE.requires_grad_(true);
    const auto report = check_gradients(
        [&] {
          Scores s;
          s.logit_NE = logit_NE, s.kind = kind;
          s.score_NE = kind == ScoreKind::softmax   ? logit_NE.softmax(-1)
                       : kind == ScoreKind::sigmoid ? logit_NE.sigmoid()
                                                    : logit_NE.relu();
          std::vector<Tensor> values = {z_loss(s, context),
                                        hf_pooled_loss({{&s, &decision}, {&s, &decision}}, context)};
          for (const auto convention : kConventions) values.push_back(balance_loss(s, decision, context, convention));
          return Evaluated{at::stack(values), {}};
        },
        {{"logit", logit_NE}});
    CHECK(report.worst < 1e-6);
    CHECK(report.largest > 1e-2);
  }
}
