// CartesianMoE against a plain loop over tokens and pairs of sub-experts.
//
// N tokens, D model width, E sub-experts in each set.
#include <algorithm>

#include "tests/support/layers.h"

namespace {

using namespace collegium;
using namespace collegium::layer;
using namespace collegium::test;

constexpr int64_t kTokens = 8, kWidth = 6, kExperts = 4;

std::unique_ptr<MoeLayer> cartesian(std::initializer_list<std::pair<std::string, Value>> more = {}) {
  auto fields = table({{"n_experts", kExperts}, {"d_expert", 3}});
  for (const auto& [key, value] : more) fields.set(key, value);
  return make_layer({.name = "cartesian", .fields = fields}, kWidth);
}

// One stage for one token: the chosen sub-experts by their share of the chosen probabilities, and the shared one.
Tensor stage(MoeLayer& made, const std::string& which, const Tensor& x_D, int64_t k, bool has_shared) {
  const auto score_E = at::matmul(parameter(made, which + ".router.scorer.weight"), x_D).softmax(0);
  const auto chosen = ints(std::get<1>(score_E.detach().topk(k)));
  auto sum = at::zeros({}, at::kDouble);
  for (const auto e : chosen) sum = sum + score_E[e];
  const auto x_1D = x_D.unsqueeze(0);
  auto y_D = at::zeros({kWidth}, at::kDouble);
  for (const auto e : chosen)
    y_D = y_D + score_E[e] / sum *
                    swiglu(x_1D, parameter(made, which + ".experts.gate_up")[e],
                           parameter(made, which + ".experts.down")[e])[0];
  if (has_shared)
    y_D = y_D +
          swiglu(x_1D, parameter(made, which + ".shared.gate_up")[0], parameter(made, which + ".shared.down")[0])[0];
  return y_D;
}

Tensor explicit_pairs(MoeLayer& made, const Tensor& x_ND, int64_t k, bool has_shared) {
  std::vector<Tensor> rows;
  for (int64_t n = 0; n < x_ND.size(0); ++n) {
    const auto first_D = stage(made, "first", x_ND[n], k, has_shared), between_D = x_ND[n] + first_D;
    const auto h_D = between_D / (between_D.square().mean() + 1e-5).sqrt() * parameter(made, "norm");
    rows.push_back(first_D + stage(made, "second", h_D, k, has_shared));
  }
  return at::stack(rows);
}

}  // namespace

TEST_CASE("cartesian: the second stage works on what the first made, values and gradients") {
  for (const int64_t k : {1, 2})
    for (const int64_t n_shared : {0, 1}) {
      CAPTURE(k);
      CAPTURE(n_shared);
      const auto router = table({{"name", "top_k"}, {"k", k}});
      const auto made = cartesian({{"n_shared", n_shared}, {"first", router}, {"second", router}});
      scale_parameters(*made, 2);
      const auto x_ND = inputs(kTokens, kWidth).requires_grad_(true);
      const auto run = [&](const std::function<Tensor()>& forward) {
        return values_and_gradients(*made, x_ND, forward);
      };
      const auto fast = run([&] { return made->forward(x_ND, context_of(kTokens)).y_ND; });
      const auto plain = run([&] { return explicit_pairs(*made, x_ND, k, n_shared > 0); });
      // With k = 1 the router's gradient is what is left of large terms that cancel.
      double largest = 0;
      for (const auto& t : plain) largest = std::max(largest, t.abs().max().item<double>());
      CAPTURE(largest);
      for (size_t i = 0; i < fast.size(); ++i) CHECK(difference(fast[i], plain[i]) < 1e-12 * largest);
    }
}

TEST_CASE("cartesian: the first stage's output is part of the layer's, unless it may not") {
  const auto alone = cartesian({{"residual", false}}), both = cartesian();
  const auto x_ND = inputs(kTokens, kWidth);
  std::vector<Tensor> first;
  for (int64_t n = 0; n < kTokens; ++n) first.push_back(stage(*alone, "first", x_ND[n], 2, true));
  CHECK(difference(both->forward(x_ND, context_of(kTokens)).y_ND,
                   alone->forward(x_ND, context_of(kTokens)).y_ND + at::stack(first)) < 1e-12);
}

TEST_CASE("cartesian: the losses of both stages have their names, the decision is the first stage's") {
  const auto made = cartesian();
  const auto out = made->forward(inputs(kTokens, kWidth), context_of(kTokens));
  std::set<std::string> names;
  for (const auto& l : out.losses) names.insert(l.name);
  CHECK(names.count("first balance_loss"));
  CHECK(names.count("second balance_loss"));
  CHECK(names.size() == 4);
  const auto score_NE = at::linear(inputs(kTokens, kWidth), weight(*made, "first.router.scorer.weight"));
  const auto best = ints(score_NE.argmax(1));
  const auto& d = *out.decision;
  const auto token = ints(d.token_R()), expert = ints(d.expert_R()), rank = ints(d.rank_R());
  for (size_t r = 0; r < token.size(); ++r) CHECK((rank[r] == 0) == (expert[r] == best[static_cast<size_t>(token[r])]));
}

TEST_CASE("cartesian: as many experts as pairs for the parameters of twice the sub-experts") {
  const double expert = 3 * 3 * kWidth, router = kExperts * kWidth;
  const auto facts = cartesian({{"n_shared", 2}})->facts();
  CHECK(facts.n_experts == kExperts);
  CHECK(facts.parameters_active == 2 * (2 * expert + 2 * expert + router) + kWidth);
  CHECK(facts.flops_per_token == 4 * (2 * expert + 2 * expert + router));
  double total = 0;
  const auto made = cartesian({{"n_shared", 2}});
  for (const auto& p : parameters_of(*made)) total += static_cast<double>(p.tensor->numel());
  CHECK(total == 2 * (kExperts * expert + 2 * expert + router) + kWidth);
}

TEST_CASE("cartesian: a token that stage one drops still reaches stage two") {
  const auto router = table({{"name", "top_k"}, {"k", 1}, {"capacity_factor", 0.1}});
  const auto made = cartesian({{"n_shared", 0}, {"first", router}});
  const auto out = made->forward(inputs(kTokens, kWidth), context_of(kTokens));
  const auto gone = out.decision->dropped().token_Q;
  REQUIRE(gone.size(0) > 0);
  const auto x_ND = inputs(kTokens, kWidth).index_select(0, gone);
  const auto y_ND = out.y_ND.index_select(0, gone);
  for (int64_t i = 0; i < gone.size(0); ++i) {
    const auto h_D = x_ND[i] / (x_ND[i].square().mean() + 1e-5).sqrt();
    CHECK(difference(y_ND[i], stage(*made, "second", h_D, 2, false)) < 1e-12);
  }
}
