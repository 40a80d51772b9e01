// Low-rank experts: each is its whole matrices, W_0 is counted once.
//
// N tokens, D model width, E experts, R rows.
#include "tests/support/layers.h"

namespace {

using namespace collegium;
using namespace collegium::layer;
using namespace collegium::test;

constexpr int64_t kTokens = 8, kWidth = 6, kExperts = 4, kHidden = 5, kRank = 2;

std::unique_ptr<MoeLayer> low_rank(int64_t k) {
  const auto expert = table({{"name", "lora"}, {"rank", kRank}, {"alpha", 3.0}});
  const auto router = table({{"name", "top_k"}, {"k", k}});
  return make_layer(
      {.name = "routed",
       .fields = table({{"n_experts", kExperts}, {"d_expert", kHidden}, {"expert", expert}, {"router", router}})},
      kWidth);
}

}  // namespace

TEST_CASE("lora: experts begin alike, as the shared network") {
  const auto made = low_rank(2);
  const auto x_ND = inputs(kTokens, kWidth);
  CHECK(difference(made->forward(x_ND, context_of(kTokens)).y_ND,
                   swiglu(x_ND, weight(*made, "experts.gate_up")[0], weight(*made, "experts.down")[0])) < 1e-12);
}

TEST_CASE("lora: an expert is W_0 + alpha / rank B A in both matrices, values and gradients") {
  for (const int64_t k : {1, 2, 4}) {
    CAPTURE(k);
    const auto made = low_rank(k);
    {
      const at::NoGradGuard no_grad;
      parameter(*made, "experts.gate_up_b").copy_(numbers(Random(21), {kExperts, 2 * kHidden, kRank}));
      parameter(*made, "experts.down_b").copy_(numbers(Random(22), {kExperts, kWidth, kRank}));
    }
    const auto x_ND = inputs(kTokens, kWidth).requires_grad_(true);
    const auto whole = [&](const char* name, int64_t e) {
      const auto of = [&](const char* part) { return parameter(*made, text("experts.", name, part)); };
      return of("")[0] + 3.0 / kRank * at::matmul(of("_b")[e], of("_a")[e]);
    };
    const auto plain = [&] {
      const auto d = *made->forward(x_ND, context_of(kTokens)).decision;
      auto y_ND = at::zeros({kTokens, kWidth}, at::kDouble);
      const auto token = ints(d.token_R()), expert = ints(d.expert_R());
      for (size_t r = 0; r < token.size(); ++r) {
        const auto x_1D = x_ND.slice(0, token[r], token[r] + 1);
        const auto out_1D = swiglu(x_1D, whole("gate_up", expert[r]), whole("down", expert[r]));
        y_ND =
            y_ND.index_add(0, at::tensor(std::vector<int64_t>{token[r]}), out_1D * d.gate_R()[static_cast<int64_t>(r)]);
      }
      return y_ND;
    };
    const auto run = [&](const std::function<Tensor()>& forward) { return values_and_gradients(*made, x_ND, forward); };
    const auto fast = run([&] { return made->forward(x_ND, context_of(kTokens)).y_ND; }), slow = run(plain);
    for (size_t i = 0; i < fast.size(); ++i) CHECK((fast[i] - slow[i]).abs().max().item<double>() < 1e-11);
  }
}

TEST_CASE("lora: the shared network is met once, however many experts are chosen") {
  const double base = 3 * kHidden * kWidth, router = kExperts * kWidth;
  const double own = kRank * (kWidth + 2 * kHidden) + kRank * (kHidden + kWidth);
  for (const int64_t k : {1, 3}) {
    const auto facts = low_rank(k)->facts();
    CHECK(facts.parameters_active == base + static_cast<double>(k) * own + router);
    CHECK(facts.flops_per_token == 2 * facts.parameters_active);
  }
}
