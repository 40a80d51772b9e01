// Union-of-MLP-Experts: all slices together are the block that was cut, some are the block with hidden units at zero.
//
// N tokens, D model width, E experts, I hidden width of the block.
#include "tests/support/layers.h"

namespace {

using namespace collegium;
using namespace collegium::layer;
using namespace collegium::test;

constexpr int64_t kTokens = 9, kWidth = 5, kExperts = 4, kHidden = 12;

std::unique_ptr<MoeLayer> union_of(const std::string& expert, const Table& router) {
  return make_layer(
      {.name = "union",
       .fields = table({{"n_experts", kExperts}, {"d_hidden", kHidden}, {"expert", expert}, {"router", router}})},
      kWidth);
}

Table all_on(bool weighed) {
  return table({{"name", "union"}, {"k", kExperts}, {"weighed", weighed}, {"balance_loss", 0.0}, {"z_loss", 0.0}});
}

// The slices put together again: [E, rows of a slice, ...] to the block's matrices.
Tensor way_in(MoeLayer& made, const std::string& expert) {
  if (expert == "gelu") return parameter(made, "experts.up").reshape({kHidden, kWidth});
  const auto halves = parameter(made, "experts.gate_up").chunk(2, 1);
  return at::cat({halves[0].reshape({kHidden, kWidth}), halves[1].reshape({kHidden, kWidth})});
}
Tensor way_back(MoeLayer& made) {
  return parameter(made, "experts.down").permute({1, 0, 2}).reshape({kWidth, kHidden});
}

// The undecomposed block; hidden_NI says which hidden units each token may use.
Tensor block(MoeLayer& made, const std::string& expert, const Tensor& x_ND, const Tensor& hidden_NI) {
  const auto h = at::linear(x_ND, way_in(made, expert));
  const auto act_NI = expert == "gelu" ? at::gelu(h) : at::silu(h.chunk(2, -1)[0]) * h.chunk(2, -1)[1];
  return at::linear(act_NI * hidden_NI, way_back(made));
}

}  // namespace

TEST_CASE("union: with all experts on, the sum of the slices is the block, values and gradients") {
  for (const std::string expert : {"gelu", "swiglu"}) {
    CAPTURE(expert);
    const auto made = union_of(expert, all_on(false));
    const auto x_ND = inputs(kTokens, kWidth).requires_grad_(true);
    const auto all_NI = at::ones({kTokens, kHidden}, at::kDouble);
    const auto slices =
        values_and_gradients(*made, x_ND, [&] { return made->forward(x_ND, context_of(kTokens)).y_ND; });
    const auto whole = values_and_gradients(*made, x_ND, [&] { return block(*made, expert, x_ND, all_NI); });
    for (size_t i = 0; i < whole.size(); ++i) CHECK(difference(slices[i], whole[i]) < 1e-13);

    // The same as the dense layer of this library with these weights.
    const auto dense =
        make_layer({.name = "dense", .fields = table({{"d_hidden", kHidden}, {"expert", expert}})}, kWidth);
    {
      const at::NoGradGuard no_grad;
      parameter(*dense, expert == "gelu" ? "network.up" : "network.gate_up")[0].copy_(way_in(*made, expert));
      parameter(*dense, "network.down")[0].copy_(way_back(*made));
    }
    CHECK(difference(slices[0], dense->forward(x_ND, context_of(kTokens)).y_ND) < 1e-13);
  }
}

TEST_CASE("union: weighed by even scores, all experts are still the block") {
  const auto made = union_of("gelu", all_on(true));
  {
    const at::NoGradGuard no_grad;
    parameter(*made, "router.scorer.of.weight").zero_();
  }
  const auto x_ND = inputs(kTokens, kWidth);
  const auto y_ND = made->forward(x_ND, context_of(kTokens)).y_ND;
  CHECK(difference(y_ND, block(*made, "gelu", x_ND, at::ones({kTokens, kHidden}, at::kDouble))) < 1e-13);
}

TEST_CASE("union: with some experts on, the block works without the hidden units of the others") {
  const auto made = union_of("swiglu", table({{"name", "union"}, {"k", 2}, {"weighed", false}}));
  const auto x_ND = inputs(kTokens, kWidth);
  const auto out = made->forward(x_ND, context_of(kTokens));
  const auto on_NE = at::zeros({kTokens, kExperts}, at::kDouble);
  const auto token = ints(out.decision->token_R()), expert = ints(out.decision->expert_R());
  for (size_t r = 0; r < token.size(); ++r) on_NE[token[r]][expert[r]] = 1;
  CHECK(on_NE.sum().item<double>() == 2 * kTokens);
  const auto hidden_NI = on_NE.repeat_interleave(kHidden / kExperts, 1);
  CHECK(difference(out.y_ND, block(*made, "swiglu", x_ND, hidden_NI)) < 1e-13);
}

TEST_CASE("union: first weights are those of the whole block") {
  const auto made = union_of("gelu", all_on(false));
  const auto routed =
      make_layer({.name = "routed",
                  .fields = table({{"n_experts", kExperts}, {"d_expert", kHidden / kExperts}, {"expert", "gelu"}})},
                 kWidth);
  CHECK(same_bits(weight(*made, "experts.up"), weight(*routed, "experts.up")));
  CHECK(difference(weight(*made, "experts.down") * std::sqrt(static_cast<double>(kExperts)),
                   weight(*routed, "experts.down")) < 1e-15);
}

TEST_CASE("union: k of E slices are k / E of the block's work") {
  const double whole = 3.0 * kHidden * kWidth, router = kExperts * kWidth;
  const auto facts = union_of("swiglu", table({{"name", "union"}, {"k", 1}}))->facts();
  CHECK(facts.n_experts == kExperts);
  CHECK(facts.parameters_active == whole / kExperts + router);
  CHECK(facts.flops_per_token == 2 * (whole / kExperts + router));
  CHECK(complaint([] {
          make_layer({.name = "union", .fields = table({{"n_experts", 4}, {"d_hidden", 10}})}, kWidth);
        }).find("cannot be cut into n_experts = 4") != std::string::npos);
}
