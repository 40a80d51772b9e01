// Chain-of-Experts against its steps written out, and against an ordinary routed layer.
//
// N tokens, D model width, E experts.
#include <algorithm>

#include "tests/support/layers.h"

namespace {

using namespace collegium;
using namespace collegium::layer;
using namespace collegium::test;

constexpr int64_t kTokens = 8, kWidth = 6, kExperts = 4;

std::unique_ptr<MoeLayer> chain(std::initializer_list<std::pair<std::string, Value>> more = {}) {
  auto fields = table({{"n_experts", kExperts}, {"d_expert", 3}});
  for (const auto& [key, value] : more) fields.set(key, value);
  return make_layer({.name = "chain", .fields = fields}, kWidth);
}

// One step for one token: the two best experts by their share of the two best probabilities, and the shared one.
Tensor step(MoeLayer& made, const std::string& router, const Tensor& x_D, bool has_shared) {
  const auto score_E = at::matmul(parameter(made, router + ".scorer.weight"), x_D).softmax(0);
  const auto best = ints(std::get<1>(score_E.detach().topk(2)));
  const auto x_1D = x_D.unsqueeze(0);
  auto y_D = at::zeros({kWidth}, at::kDouble);
  for (const auto e : best)
    y_D = y_D + score_E[e] / (score_E[best[0]] + score_E[best[1]]) *
                    swiglu(x_1D, parameter(made, "experts.gate_up")[e], parameter(made, "experts.down")[e])[0];
  if (has_shared) y_D = y_D + swiglu(x_1D, parameter(made, "shared.gate_up")[0], parameter(made, "shared.down")[0])[0];
  return y_D;
}

Tensor explicit_steps(MoeLayer& made, const Tensor& x_ND, int64_t steps, const std::string& residual, bool own,
                      bool has_shared) {
  std::vector<Tensor> rows;
  for (int64_t n = 0; n < x_ND.size(0); ++n) {
    auto state_D = x_ND[n], sum_D = at::zeros({kWidth}, at::kDouble);
    for (int64_t t = 1; t <= steps; ++t) {
      const auto f_D = step(made, t == 1 || !own ? "router" : text("router_", t), state_D, has_shared);
      sum_D = sum_D + f_D;
      state_D = residual == "outer" ? f_D : state_D + f_D;
    }
    rows.push_back(residual == "inner" ? sum_D : state_D);
  }
  return at::stack(rows);
}

}  // namespace

TEST_CASE("chain: every step works on what the steps before made, values and gradients") {
  for (const char* residual : {"inner", "outer", "both"})
    for (const bool own : {true, false})
      for (const int64_t steps : {2, 3}) {
        CAPTURE(residual);
        CAPTURE(own);
        CAPTURE(steps);
        const auto made = chain({{"steps", steps}, {"residual", residual}, {"own_routers", own}, {"n_shared", 1}});
        scale_parameters(*made, 2);
        const auto x_ND = inputs(kTokens, kWidth).requires_grad_(true);
        const auto run = [&](const std::function<Tensor()>& forward) {
          return values_and_gradients(*made, x_ND, forward);
        };
        const auto fast = run([&] { return made->forward(x_ND, context_of(kTokens)).y_ND; });
        const auto plain = run([&] { return explicit_steps(*made, x_ND, steps, residual, own, true); });
        double largest = 0;
        for (const auto& t : plain) largest = std::max(largest, t.abs().max().item<double>());
        for (size_t i = 0; i < fast.size(); ++i) CHECK(difference(fast[i], plain[i]) < 1e-12 * std::max(1.0, largest));
      }
}

TEST_CASE("chain: one step is an ordinary routed layer, bit for bit") {
  const auto fields = table({{"n_experts", kExperts}, {"d_expert", 3}, {"n_shared", 1}});
  const auto routed = make_layer({.name = "routed", .fields = fields}, kWidth);
  const auto x_ND = inputs(kTokens, kWidth);
  for (const char* residual : {"inner", "outer"}) {
    const auto one = chain({{"steps", 1}, {"n_shared", 1}, {"residual", residual}});
    const auto a = one->forward(x_ND, context_of(kTokens)), b = routed->forward(x_ND, context_of(kTokens));
    CHECK(same_bits(a.y_ND, b.y_ND));
    CHECK(same_decision(*a.decision, *b.decision));
    REQUIRE(a.losses.size() == b.losses.size());
    for (size_t i = 0; i < a.losses.size(); ++i) CHECK(a.losses[i].name == b.losses[i].name);
    CHECK(one->facts().parameters_active == routed->facts().parameters_active);
    CHECK(one->facts().flops_per_token == routed->facts().flops_per_token);
  }
}

TEST_CASE("chain: the decision is the first step's, losses of later steps are named so") {
  const auto made = chain({{"steps", 3}});
  const auto alone = chain({{"steps", 1}});
  const auto x_ND = inputs(kTokens, kWidth);
  const auto out = made->forward(x_ND, context_of(kTokens));
  CHECK(same_decision(*out.decision, *alone->forward(x_ND, context_of(kTokens)).decision));
  std::set<std::string> names;
  for (const auto& l : out.losses) CHECK(names.insert(l.name).second);
  CHECK(names.count("balance_loss"));
  CHECK(names.count("step 2 balance_loss"));
  CHECK(names.count("step 3 balance_loss"));
}

TEST_CASE("chain: the work of all steps, the parameters of one pool") {
  const double expert = 3 * 3 * kWidth, router = kExperts * kWidth;
  const auto two = chain({{"steps", 2}, {"n_shared", 2}})->facts();
  CHECK(two.parameters_active == 4 * expert + 2 * expert + 2 * router);
  CHECK(two.flops_per_token == 2 * 2 * (2 * expert + 2 * expert + router));
  // No more experts than there are; one router for all steps is met once.
  const auto four = chain({{"steps", 4}, {"own_routers", false}})->facts();
  CHECK(four.parameters_active == 4 * expert + router);
  CHECK(four.flops_per_token == 4 * 2 * (2 * expert + router));
  double total = 0;
  const auto made = chain({{"steps", 4}});
  for (const auto& p : parameters_of(*made)) total += static_cast<double>(p.tensor->numel());
  CHECK(total == kExperts * expert + 4 * router);
}

TEST_CASE("chain: a token that a step drops is carried past it") {
  const auto router = table({{"name", "top_k"}, {"k", 1}, {"capacity_factor", 0.1}});
  const auto made = chain({{"router", router}, {"residual", "both"}});
  const auto x_ND = inputs(kTokens, kWidth);
  const auto y_ND = made->forward(x_ND, context_of(kTokens)).y_ND;
  const auto carried = y_ND.eq(x_ND).all(1).sum().item<int64_t>();
  CHECK(carried > 0);
  CHECK(carried < kTokens);
}

TEST_CASE("chain: masked tokens get nothing, with any residual") {
  for (const char* residual : {"inner", "outer", "both"}) {
    const auto made = chain({{"residual", residual}, {"n_shared", 1}});
    auto context = context_of(kTokens);
    context.mask_N = at::arange(kTokens).lt(5);
    const auto y_ND = made->forward(inputs(kTokens, kWidth), context).y_ND;
    CHECK(y_ND.slice(0, 5).abs().max().item<double>() == 0);
    CHECK(y_ND.slice(0, 0, 5).abs().min().item<double>() > 0);
  }
}
