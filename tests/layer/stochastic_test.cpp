// S2MoE: without noise it is the routed layer; with noise, both paths, the gate and the contrastive loss by hand.
//
// N tokens, D model width, E experts.
#include "tests/support/gradcheck.h"
#include "tests/support/layers.h"

namespace {

using namespace collegium;
using namespace collegium::layer;
using namespace collegium::test;
using route::Phase;

constexpr int64_t kTokens = 10, kWidth = 6, kExperts = 4;

std::unique_ptr<MoeLayer> stochastic(std::initializer_list<std::pair<std::string, Value>> more = {}) {
  auto fields = table({{"n_experts", kExperts}, {"d_expert", 4}});
  for (const auto& [key, value] : more) fields.set(key, value);
  return make_layer({.name = "stochastic", .fields = fields}, kWidth);
}

// A routed layer with the same weights.
std::unique_ptr<MoeLayer> routed_like(MoeLayer& made, const Table& router = table({{"name", "top_k"}})) {
  auto out = make_layer(
      {.name = "routed", .fields = table({{"n_experts", kExperts}, {"d_expert", 4}, {"router", router}})}, kWidth);
  load(*out, save(made));
  return out;
}

}  // namespace

TEST_CASE("stochastic: without noise, and whenever it evaluates, it is the routed layer to the last bit") {
  const auto x_ND = inputs(kTokens, kWidth);
  for (const auto phase : {Phase::train, Phase::evaluate, Phase::recompute})
    for (const double noise : {0.0, 1.0}) {
      if (noise > 0 && phase != Phase::evaluate) continue;
      const auto made = stochastic({{"noise", noise}});
      const auto plain = routed_like(*made);
      const auto a = made->forward(x_ND, context_of(kTokens, 2, phase)),
                 b = plain->forward(x_ND, context_of(kTokens, 2, phase));
      CHECK(same_bits(a.y_ND, b.y_ND));
      CHECK(same_decision(*a.decision, *b.decision));
      REQUIRE(a.losses.size() == b.losses.size());
      for (size_t i = 0; i < a.losses.size(); ++i) {
        CHECK(a.losses[i].name == b.losses[i].name);
        CHECK(same_bits(a.losses[i].value, b.losses[i].value));
      }
    }
}

TEST_CASE("stochastic: both paths, the gate and the contrastive loss by hand") {
  for (const int64_t block : {4, 64}) {
    const auto made = stochastic({{"noise", 0.5}, {"contrast", 0.2}, {"temperature", 0.7}, {"contrast_tokens", block}});
    parameter(*made, "trust").detach().copy_(numbers(Random(9), {kWidth}, -1, 1, at::kDouble));
    const auto plain = routed_like(*made);
    const auto x_ND = inputs(kTokens, kWidth);
    auto context = context_of(kTokens, 2, Phase::recompute);
    context.mask_N = at::arange(kTokens).ne(2);
    const auto out = made->forward(x_ND, context);

    // The noise again, from the same streams.
    const auto random = context.random.at("noisy");
    const auto a_ND = random.at("scale").normal({kTokens, kWidth}, 1, at::kDouble),
               b_ND = random.at("shift").normal({kTokens, kWidth}, 1, at::kDouble);
    auto noisy_ND = x_ND.clone();
    for (int64_t n = 0; n < kTokens; ++n) {
      const auto mean = x_ND[n].mean(), std = x_ND[n].std(/*unbiased=*/false);
      noisy_ND[n] += 0.5 * (std * a_ND[n] * x_ND[n] + mean + std * b_ND[n]);
    }
    const auto one = plain->forward(x_ND, context), two = plain->forward(noisy_ND, context);
    const auto trust_N1 = at::matmul(x_ND, weight(*made, "trust")).sigmoid().unsqueeze(1);
    CHECK(difference(out.y_ND, trust_N1 * one.y_ND + (1 - trust_N1) * two.y_ND) < 1e-10);
    CHECK(same_decision(*out.decision, *one.decision));

    double sum = 0;
    for (int64_t n = 0; n < kTokens; ++n) {
      if (n == 2) continue;
      const auto near = [&](int64_t m) {
        return std::exp(at::cosine_similarity(one.y_ND[n], two.y_ND[m], 0).item<double>() / 0.7);
      };
      double all = 0;
      for (int64_t m = n / block * block; m < std::min(kTokens, n / block * block + block); ++m)
        if (m != 2) all += near(m);
      sum -= std::log(near(n) / all) / 9;
    }
    CHECK(out.losses.front().name == "contrast");
    CHECK(out.losses.front().raw == doctest::Approx(sum));
    CHECK(out.losses.front().value.item<double>() == doctest::Approx(0.2 * sum));
    for (size_t i = 0; i < one.losses.size(); ++i)
      CHECK(out.losses[i + 1].raw == doctest::Approx((one.losses[i].raw + two.losses[i].raw) / 2));
  }
}

TEST_CASE("stochastic: derivatives through both paths, the statistics and the contrast") {
  const auto made = stochastic({{"noise", 0.3}, {"contrast_tokens", 4}});
  scale_parameters(*made->router(), 5);
  parameter(*made, "trust").detach().copy_(numbers(Random(9), {kWidth}, -1, 1, at::kDouble));
  auto x_ND = inputs(kTokens, kWidth).requires_grad_(true);
  const auto context = context_of(kTokens, 2, Phase::recompute);
  std::vector<Variable> variables = {{"x", x_ND}};
  for (const auto& p : parameters_of(*made)) variables.push_back({p.name, *p.tensor});
  const auto report = check_gradients(
      [&] {
        const auto out = made->forward(x_ND, context);
        std::vector<Tensor> values = {out.y_ND.reshape({-1})};
        for (const auto& l : out.losses) values.push_back(l.value.reshape({1}));
        return Evaluated{at::cat(values), choice_of(*out.decision)};
      },
      variables);
  CAPTURE(report.where);
  CHECK(report.is_smooth);
  CHECK(report.worst < 1e-6);
  CHECK(report.largest > 1e-2);
}

TEST_CASE("stochastic: fewer experts when evaluating, with the token's whole weight") {
  const auto few = stochastic({{"evaluated_k", 1}});
  const auto one = routed_like(*few, table({{"name", "top_k"}, {"k", 1}}));
  const auto x_ND = inputs(kTokens, kWidth);
  // The normalised weight of a single choice is one, so this is the same router with k = 1.
  const auto a = few->forward(x_ND, context_of(kTokens)), b = one->forward(x_ND, context_of(kTokens));
  CHECK(difference(a.y_ND, b.y_ND) < 1e-12);
  CHECK(a.decision->n_kept() == kTokens);
  CHECK(few->forward(x_ND, context_of(kTokens, 1, Phase::train)).decision->n_kept() == 2 * kTokens);
}

TEST_CASE("stochastic: noise is drawn anew each step and again when recomputed") {
  const auto made = stochastic();
  const auto x_ND = inputs(kTokens, kWidth);
  auto context = context_of(kTokens, 1, Phase::train);
  const auto a_ND = made->forward(x_ND, context).y_ND;
  context.phase = Phase::recompute;
  CHECK(same_bits(made->forward(x_ND, context).y_ND, a_ND));
  context.random = Random(6);
  CHECK_FALSE(same_bits(made->forward(x_ND, context).y_ND, a_ND));
}

TEST_CASE("stochastic: the facts count the plain path's parameters and the work of training") {
  const double expert = 3 * 4 * kWidth, router = kExperts * kWidth;
  const auto off = stochastic({{"noise", 0.0}})->facts(), on = stochastic({{"contrast_tokens", 8}})->facts();
  CHECK(off.parameters_active == 2 * expert + router);
  CHECK(on.parameters_active == off.parameters_active);
  CHECK(off.flops_per_token == 2 * (2 * expert + router));
  CHECK(on.flops_per_token == 2 * off.flops_per_token + 2 * kWidth + 2 * kWidth * 8);
}
