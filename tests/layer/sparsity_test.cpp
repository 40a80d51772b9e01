// Routing by predicted sparsity: the prediction against counted units, the formula, and where its gradient goes.
//
// N tokens, D model width, E experts, I hidden units of an expert.
#include "collegium/layer/experts.h"
#include "tests/support/gradcheck.h"
#include "tests/support/layers.h"

namespace {

using namespace collegium;
using namespace collegium::route;
using namespace collegium::test;

constexpr int64_t kTokens = 40, kWidth = 24, kExperts = 5;

Table sparsity_aware() {
  return table({{"name", "sparsity_aware"}, {"k", 1}});
}

std::unique_ptr<layer::MoeLayer> layer_of(int64_t d_expert) {
  return make_layer(
      {.name = "routed",
       .fields =
           table({{"n_experts", kExperts}, {"d_expert", d_expert}, {"expert", "relu"}, {"router", sparsity_aware()}})},
      kWidth);
}

}  // namespace

TEST_CASE("sparsity: the prediction is the share of units that are on, when weights are normal draws") {
  // Means away from zero, different for each expert and input, so that shares differ.
  const auto made = layer_of(4000);
  {
    const at::NoGradGuard no_grad;
    parameter(*made, "experts.up").add_(numbers(Random(5), {kExperts, 1, kWidth}, -0.2, 0.2, at::kDouble));
  }
  const auto x_ND = inputs(kTokens, kWidth);
  auto context = context_of(kTokens);
  context.record = true;
  const auto score_NE = made->forward(x_ND, context).score_NE;
  const auto up = weight(*made, "experts.up");
  for (int64_t n = 0; n < kTokens; ++n) {
    const auto on_E = at::matmul(up, x_ND[n]).gt(0).to(at::kDouble).mean(1);
    // score = softmax(1 - 2 p), so differences of its logarithm are twice those of the shares.
    const auto log_E = score_NE[n].log();
    const auto predicted_E = (log_E[0] - log_E) / 2, counted_E = on_E - on_E[0];
    CHECK((predicted_E - counted_E).abs().max().item<double>() < 0.05);
    CHECK(counted_E.abs().max().item<double>() > 0.05);
  }
}

TEST_CASE("sparsity: the formula, and the sparsest expert is chosen") {
  const auto made = layer_of(6);
  const auto x_ND = inputs(kTokens, kWidth);
  const auto up = weight(*made, "experts.up");
  const auto mean_ED = up.mean(1), variance_ED = (up - up.mean({1}, true)).square().mean(1);
  const auto z_NE = at::matmul(x_ND, mean_ED.t()) / (2 * at::matmul(x_ND.square(), variance_ED.t())).sqrt();
  const auto out = made->forward(x_ND, context_of(kTokens));
  const auto& d = *out.decision;
  const auto chosen_N = at::empty({kTokens}, at::kLong).index_copy_(0, d.token_R(), d.expert_R());
  CHECK(same_bits(chosen_N, at::erf(z_NE).argmin(1)));
  CHECK(made->facts().parameters_active == 2 * 6 * kWidth + 2 * kExperts * kWidth);
}

TEST_CASE("sparsity: experts that cannot predict their units are refused when the layer is built") {
  const auto refusal = [](const std::string& layer, const std::string& expert, const char* router = "sparsity_aware") {
    return complaint([&] {
      make_layer({.name = layer,
                  .fields = table({{"n_experts", kExperts}, {"d_expert", 6}, {"expert", expert}, {"router", router}})},
                 kWidth);
    });
  };
  for (const auto* name : {"routed", "chain"}) {
    CAPTURE(name);
    CHECK(refusal(name, "lora") ==
          "router 'sparsity_aware' needs predictions of the experts' hidden units, which experts of the kind 'lora' do "
          "not give here");
    for (const auto* kind : {"relu", "gelu", "swiglu"}) CHECK(refusal(name, kind).empty());
    CHECK(refusal(name, "lora", "compete").empty());
  }
  // Behind a projection the units are those of a narrower network than the router sees.
  CHECK(refusal("latent", "relu").find("do not give here") != std::string::npos);
}

TEST_CASE("sparsity: the router has no weights, its balance loss moves the experts'") {
  const auto made = layer_of(6);
  CHECK(parameters_of(*made->router()).empty());
  const auto out = made->forward(inputs(kTokens, kWidth), context_of(kTokens));
  REQUIRE(out.losses.size() == 1);
  out.losses[0].value.backward();
  CHECK(parameter(*made, "experts.up").grad().abs().max().item<double>() > 0);
  CHECK_FALSE(parameter(*made, "experts.down").grad().defined());
}

TEST_CASE(
    "wide hidden units: each token's experts in their places, zero elsewhere; with all of them the layer's output") {
  const auto made = layer_of(6);
  const auto x_ND = inputs(kTokens, kWidth);
  const auto out = made->forward(x_ND, context_of(kTokens));
  const auto units_NEI = made->units(x_ND, out).reshape({kTokens, kExperts, 6});
  const auto token = ints(out.decision->token_R()), expert = ints(out.decision->expert_R());
  auto y_ND = at::zeros_like(x_ND);
  for (size_t r = 0; r < token.size(); ++r) {
    const auto h_I = at::relu(at::matmul(weight(*made, "experts.up")[expert[r]], x_ND[token[r]]));
    CHECK(difference(units_NEI[token[r]][expert[r]], h_I) < 1e-12);
    y_ND[token[r]] += at::matmul(weight(*made, "experts.down")[expert[r]], units_NEI[token[r]][expert[r]]) *
                      out.decision->gate_R()[static_cast<int64_t>(r)].detach();
  }
  CHECK(units_NEI.ne(0).any(2).sum().item<int64_t>() <= kTokens);
  CHECK(difference(out.y_ND, y_ND) < 1e-12);
}
