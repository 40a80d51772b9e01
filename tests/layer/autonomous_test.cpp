// Autonomy-of-Experts against a plain loop that keeps nothing and computes every projection anew.
//
// N tokens, D model width, E experts.
#include "tests/support/layers.h"

namespace {

using namespace collegium;
using namespace collegium::layer;
using namespace collegium::test;

constexpr int64_t kTokens = 9, kWidth = 6, kExperts = 5;

std::unique_ptr<MoeLayer> autonomous(std::initializer_list<std::pair<std::string, Value>> more = {}) {
  auto fields = table({{"n_experts", kExperts}, {"d_expert", 4}, {"rank", 3}});
  for (const auto& [key, value] : more) fields.set(key, value);
  return make_layer({.name = "autonomous", .fields = fields}, kWidth);
}

// sum over the k experts with the largest |x W_down| of softmax(|x W_down|) * expert(x), token by token.
Tensor explicit_loop(MoeLayer& made, const Tensor& x_ND, int64_t k, bool is_normalised) {
  const auto p = [&](const char* name, int64_t e) { return parameter(made, name)[e]; };
  std::vector<Tensor> rows;
  for (int64_t n = 0; n < x_ND.size(0); ++n) {
    const auto x_D = x_ND[n];
    std::vector<Tensor> norm;
    for (int64_t e = 0; e < kExperts; ++e) norm.push_back(at::matmul(p("gate_down", e), x_D).square().sum().sqrt());
    const auto score_E = at::stack(norm).softmax(0);
    const auto chosen = ints(std::get<1>(score_E.detach().topk(k)));
    auto sum = at::zeros({}, at::kDouble);
    for (const auto e : chosen) sum = sum + score_E[e];
    auto y_D = at::zeros({kWidth}, at::kDouble);
    for (const auto e : chosen) {
      const auto gate_I = at::silu(at::matmul(p("gate_up", e), at::matmul(p("gate_down", e), x_D)));
      const auto weight = is_normalised ? score_E[e] / sum : score_E[e];
      y_D = y_D + weight * at::matmul(p("down", e), gate_I * at::matmul(p("up", e), x_D));
    }
    rows.push_back(y_D);
  }
  return at::stack(rows);
}

}  // namespace

TEST_CASE("autonomous: equals the plain loop that recomputes everything, values and gradients") {
  for (const int64_t k : {1, 2, 5})
    for (const char* gate : {"score", "normalised"}) {
      CAPTURE(k);
      CAPTURE(gate);
      const auto made = autonomous({{"selector", table({{"name", "top_k"}, {"k", k}})}, {"gate", gate}});
      const auto x_ND = inputs(kTokens, kWidth).requires_grad_(true);
      const auto run = [&](const std::function<Tensor()>& forward) {
        return values_and_gradients(*made, x_ND, forward, Unused::refused);
      };
      const auto fast = run([&] { return made->forward(x_ND, context_of(kTokens)).y_ND; });
      const auto plain = run([&] { return explicit_loop(*made, x_ND, k, std::string_view(gate) == "normalised"); });
      for (size_t i = 0; i < fast.size(); ++i) CHECK(difference(fast[i], plain[i]) < 1e-12);
    }
}

TEST_CASE("autonomous: no router parameters, yet the stages of the catalogue work on the norms") {
  const auto made = autonomous();
  for (const auto& p : parameters_of(*made->router())) CHECK_FALSE(p.trained());
  size_t trained = 0;
  for (const auto& p : parameters_of(*made)) trained += p.trained();
  CHECK(trained == 4);

  auto context = context_of(kTokens, 1, route::Phase::train);
  context.record = true;
  const auto limited =
      autonomous({{"capacity", table({{"name", "factor"}, {"factor", 0.5}})}, {"balancers", List{"loss_free_bias"}}});
  const auto out = limited->forward(inputs(kTokens, kWidth), context);
  CHECK(out.decision->n_dropped() > 0);
  CHECK(out.losses.empty());
  limited->step();
  const auto later = limited->forward(inputs(kTokens, kWidth), context);
  REQUIRE(later.bias_E.defined());
  CHECK(later.bias_E.abs().max().item<double>() > 0);

  const auto cached_NEr = at::einsum("nd,erd->ner", {inputs(kTokens, kWidth), weight(*limited, "gate_down")});
  CHECK(difference(out.score_NE, cached_NEr.norm(2, {-1}).softmax(1)) < 1e-12);
}

TEST_CASE("autonomous: every token meets the first matrix of all experts, the rest of the chosen ones") {
  const double first = 3 * kWidth, rest = 4 * 3 + 2 * 4 * kWidth;
  const auto facts = autonomous()->facts();
  CHECK(facts.parameters_active == kExperts * first + 2 * rest);
  CHECK(facts.flops_per_token == 2 * (kExperts * first + 2 * rest));
  CHECK(facts.n_experts == kExperts);
  CHECK(facts.is_causal);
}

TEST_CASE("autonomous: stages that make no sense are refused by name") {
  const auto said = complaint([] { autonomous({{"balancers", List{"adaptive_l1"}}}); });
  CHECK(said.find("adaptive_l1") != std::string::npos);
  CHECK(said.find("relu") != std::string::npos);
}
