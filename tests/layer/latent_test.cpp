// Latent experts against their equation written out.
//
// N tokens, D model width, L latent width, E experts.
#include "tests/support/layers.h"

namespace {

using namespace collegium;
using namespace collegium::layer;
using namespace collegium::test;

constexpr int64_t kTokens = 8, kWidth = 6, kLatent = 3, kExperts = 4;

std::unique_ptr<MoeLayer> latent(std::initializer_list<std::pair<std::string, Value>> more = {}) {
  auto fields = table({{"n_experts", kExperts}, {"d_expert", 5}, {"d_latent", kLatent}});
  for (const auto& [key, value] : more) fields.set(key, value);
  return make_layer({.name = "latent", .fields = fields}, kWidth);
}

}  // namespace

TEST_CASE("latent: down, experts, up; routers and shared experts see the token") {
  for (const int64_t n_shared : {0, 2}) {
    const auto made = latent({{"n_shared", n_shared}});
    const auto x_ND = inputs(kTokens, kWidth);
    std::vector<Tensor> rows;
    for (int64_t n = 0; n < kTokens; ++n) {
      const auto score_E = at::matmul(weight(*made, "router.scorer.weight"), x_ND[n]).softmax(0);
      const auto best = ints(std::get<1>(score_E.topk(2)));
      const auto z_1L = at::linear(x_ND.slice(0, n, n + 1), weight(*made, "down"));
      auto sum_1L = at::zeros({1, kLatent}, at::kDouble);
      for (const auto e : best)
        sum_1L = sum_1L + score_E[e] / (score_E[best[0]] + score_E[best[1]]) *
                              swiglu(z_1L, weight(*made, "experts.gate_up")[e], weight(*made, "experts.down")[e]);
      rows.push_back(at::linear(sum_1L, weight(*made, "up"))[0]);
    }
    auto expected_ND = at::stack(rows);
    if (n_shared > 0)
      expected_ND = expected_ND + swiglu(x_ND, weight(*made, "shared.gate_up")[0], weight(*made, "shared.down")[0]);
    CHECK(difference(made->forward(x_ND, context_of(kTokens)).y_ND, expected_ND) < 1e-12);
  }
}

TEST_CASE("latent: with projections that change nothing it is the routed layer") {
  const auto made = latent({{"d_latent", kWidth}});
  const auto routed =
      make_layer({.name = "routed", .fields = table({{"n_experts", kExperts}, {"d_expert", 5}})}, kWidth);
  const at::NoGradGuard no_grad;
  parameter(*made, "down").copy_(at::eye(kWidth));
  parameter(*made, "up").copy_(at::eye(kWidth));
  const auto x_ND = inputs(kTokens, kWidth);
  CHECK(difference(made->forward(x_ND, context_of(kTokens)).y_ND, routed->forward(x_ND, context_of(kTokens)).y_ND) <
        1e-12);
}

TEST_CASE("latent: experts are as small as their space, the projections are met once") {
  const double expert = 3 * 5 * kLatent, router = kExperts * kWidth, projections = 2 * kWidth * kLatent;
  const auto facts = latent({{"n_shared", 1}})->facts();
  CHECK(facts.parameters_active == 2 * expert + projections + 3 * 5 * kWidth + router);
  CHECK(facts.flops_per_token == 2 * facts.parameters_active);
}

TEST_CASE("latent: routers that ask the experts meet them at the model width") {
  const auto router = table({{"name", "compete"}, {"k", 1}});
  const auto made = latent({{"router", router}});
  CHECK(made->facts().needs.experts);
  auto context = context_of(kTokens, 1, route::Phase::train);
  const auto out = made->forward(inputs(kTokens, kWidth), context);
  CHECK(out.y_ND.isfinite().all().item<bool>());
}
