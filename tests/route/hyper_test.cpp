// The generated router: its weight from the definition; only the embedding is trained, the hypernetwork never moves.
//
// N tokens, D model width, E experts.
#include "tests/support/gradcheck.h"
#include "tests/support/routing.h"

namespace {

using namespace collegium;
using namespace collegium::route;
using namespace collegium::test;

constexpr int64_t kWidth = 6, kExperts = 5, kHidden = 7;

std::unique_ptr<Scorer> hyper(std::initializer_list<std::pair<std::string, Value>> more = {}) {
  auto fields = table({{"hidden", kHidden}, {"init_scale", 2.0}});
  for (const auto& [key, value] : more) fields.set(key, value);
  const Named named{.name = "hyper", .fields = fields};
  return find(scorers(), named, "scorer")
      .make(named, {.d_model = kWidth, .n_experts = kExperts, .random = Random(4), .options = at::kDouble});
}

Tensor named_tensor(Scorer& scorer, std::string_view name) {
  for (const auto& p : parameters_of(scorer))
    if (p.name == name) return *p.tensor;
  return {};
}

}  // namespace

TEST_CASE("the generated weight is the hypernetwork's answer to the embedding") {
  const auto scorer = hyper();
  const auto x_ND = numbers(Random(1), {4, kWidth}, -1, 1, at::kDouble);
  const auto out = scorer->score(x_ND, context_of(4));
  const auto e = reals(named_tensor(*scorer, "embedding")), first = reals(named_tensor(*scorer, "first")),
             second = reals(named_tensor(*scorer, "second")), x = reals(x_ND), logit = reals(out.logit_NE),
             prototype = reals(out.prototype_ED);
  const size_t D = kWidth, E = kExperts, H = kHidden;
  std::vector<double> hidden(H);
  for (size_t h = 0; h < H; ++h) {
    for (size_t d = 0; d < D; ++d) hidden[h] += first[h * D + d] * e[d];
    hidden[h] = std::max(hidden[h], 0.0);
  }
  for (size_t n = 0; n < 4; ++n)
    for (size_t i = 0; i < E; ++i) {
      double sum = 0;
      for (size_t d = 0; d < D; ++d) {
        double weight = 0;
        for (size_t h = 0; h < H; ++h) weight += second[(i * D + d) * H + h] * hidden[h];
        CHECK(prototype[i * D + d] == doctest::Approx(weight));
        sum += weight * x[n * D + d];
      }
      CHECK(logit[n * E + i] == doctest::Approx(sum));
    }
}

TEST_CASE("the hypernetwork gets no gradient and does not change; the embedding does, and the weight with it") {
  const auto router = make_router({.name = "hyper", .fields = table({{"k", 1}})}, kWidth, kExperts, 3, at::kDouble);
  const auto before = save(*router);
  Tensor first_weight, weight;
  for (uint64_t step = 0; step < 5; ++step) {
    const auto x_ND = numbers(Random(step), {16, kWidth}, -1, 1, at::kDouble);
    const auto r = router->route(x_ND, context_of(16, 1, Phase::train));
    weight = r.scores.prototype_ED.detach().clone();
    if (step == 0) first_weight = weight;
    auto loss = r.scores.score_NE.select(1, 0).sum();
    for (const auto& l : r.losses) loss = loss + l.value;
    loss.backward();
    const at::NoGradGuard no_grad;
    for (const auto& p : parameters_of(*router)) {
      CHECK(p.trained() == (p.name == "scorer.embedding"));
      CHECK(p.tensor->requires_grad() == p.trained());
      CHECK(p.tensor->grad().defined() == p.trained());
      if (!p.trained()) continue;
      CHECK(p.tensor->grad().abs().max().item<double>() > 0);
      p.tensor->add_(p.tensor->grad(), -0.1);
      p.tensor->mutable_grad() = Tensor();
    }
    router->step();
  }
  const auto after = save(*router);
  for (size_t i = 0; i < after.size(); ++i)
    CHECK_MESSAGE(same_bits(after[i].value, before[i].value) == !after[i].is_trained, after[i].name);
  CHECK(difference(weight, first_weight) > 1e-3);
}

TEST_CASE("a frozen router starts as the trained one and has nothing to train") {
  const auto frozen = hyper({{"frozen", true}});
  const auto x_ND = numbers(Random(1), {4, kWidth}, -1, 1, at::kDouble);
  const auto out = frozen->score(x_ND, context_of(4));
  CHECK(same_bits(out.logit_NE, hyper()->score(x_ND, context_of(4)).logit_NE.detach()));
  CHECK_FALSE(out.score_NE.requires_grad());
  const auto all = parameters_of(*frozen);
  CHECK(all.size() == 3);
  for (const auto& p : all) CHECK_FALSE(p.trained());

  // It is in the checkpoint all the same, under the name that the trained one has.
  const auto other = make_router({.name = "hyper", .fields = table({{"frozen", true}})}, kWidth, kExperts, 9);
  const auto saved = save(*make_router({.name = "hyper"}, kWidth, kExperts, 3));
  CHECK(load(*other, saved) == saved.size());
  CHECK(same_bits(other->route(x_ND.to(at::kFloat), context_of(4)).scores.logit_NE,
                  make_router({.name = "hyper"}, kWidth, kExperts, 3)
                      ->route(x_ND.to(at::kFloat), context_of(4))
                      .scores.logit_NE.detach()));
}

TEST_CASE("derivatives of generated scores by the token and the embedding") {
  const auto scorer = hyper();
  auto x_ND = numbers(Random(1), {3, kWidth}, -1, 1, at::kDouble).requires_grad_(true);
  const auto report = check_gradients([&] { return Evaluated{scorer->score(x_ND, context_of(3)).score_NE, Tensor()}; },
                                      {{"x", x_ND}, {"embedding", named_tensor(*scorer, "embedding")}});
  CAPTURE(report.where);
  CHECK(report.worst < 1e-8);
  CHECK(report.largest > 1e-2);
}

TEST_CASE("the generated weight starts as large as the linear router's") {
  const int64_t D = 128, E = 16;
  const auto rms = [&](const std::string& name) {
    const Named named{.name = name};
    const auto scorer = find(scorers(), named, "scorer")
                            .make(named, {.d_model = D, .n_experts = E, .random = Random(4), .options = at::kFloat});
    return scorer->score(at::eye(D), context_of(D)).logit_NE.square().mean().sqrt().item<double>();
  };
  CHECK(rms("hyper") == doctest::Approx(rms("linear")).epsilon(0.25));
}
