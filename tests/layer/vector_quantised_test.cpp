// VQMoE against brute force: nearest codes, the expert that a code points to, the losses, straight-through gradients.
//
// N tokens, D model width, E experts, V codes.
#include "tests/support/layers.h"

namespace {

using namespace collegium;
using namespace collegium::layer;
using namespace collegium::test;

constexpr int64_t kTokens = 10, kWidth = 5, kExperts = 3, kCodes = 7;

std::unique_ptr<MoeLayer> quantised(std::initializer_list<std::pair<std::string, Value>> more = {}) {
  auto fields =
      table({{"n_experts", kExperts}, {"d_expert", 4}, {"n_codes", kCodes}, {"init_std", 0.6}, {"contribution", 1.0}});
  for (const auto& [key, value] : more) fields.set(key, value);
  auto made = make_layer({.name = "vector_quantised", .fields = fields}, kWidth);
  parameter(*made, "path").detach().copy_(numbers(Random(9), {2, kWidth}, -1, 1, at::kDouble));
  return made;
}

// By the definition: the smallest sum of squared differences.
std::vector<int64_t> nearest_codes(const Tensor& x_ND, const Tensor& code_VD) {
  const auto x = reals(x_ND), code = reals(code_VD);
  std::vector<int64_t> out;
  for (int64_t n = 0; n < x_ND.size(0); ++n) {
    double best = std::numeric_limits<double>::infinity();
    out.push_back(-1);
    for (int64_t v = 0; v < code_VD.size(0); ++v) {
      double sum = 0;
      for (int64_t i = 0; i < kWidth; ++i) {
        const auto off = x[static_cast<size_t>(n * kWidth + i)] - code[static_cast<size_t>(v * kWidth + i)];
        sum += off * off;
      }
      if (sum < best) best = sum, out.back() = v;
    }
  }
  return out;
}

Tensor network(MoeLayer& made, const Tensor& x_D, int64_t e) {
  return swiglu(x_D.unsqueeze(0), parameter(made, "experts.gate_up")[e], parameter(made, "experts.down")[e])[0];
}

}  // namespace

TEST_CASE("vector_quantised: both paths by hand; gradients at the code go to the state, none to the code") {
  for (const double contribution : {1.0, 0.1}) {
    const auto made = quantised({{"contribution", contribution}});
    const auto x_ND = inputs(kTokens, kWidth).requires_grad_(true);
    const auto code_N = nearest_codes(x_ND, weight(*made, "code"));
    CHECK(std::set<int64_t>(code_N.begin(), code_N.end()).size() > 2);
    // In the plain version a leaf of its own stands for the quantised state; its gradient is what must reach x.
    const auto code_ND = weight(*made, "code").index_select(0, at::tensor(code_N));
    const auto quantised_ND =
        (contribution * code_ND + (1 - contribution) * x_ND.detach()).clone().requires_grad_(true);
    const auto plain = [&] {
      std::vector<Tensor> rows;
      for (int64_t n = 0; n < kTokens; ++n) {
        const auto share_2 = at::matmul(parameter(*made, "path"), x_ND[n]).softmax(0);
        const auto score_E = at::matmul(parameter(*made, "router.scorer.weight"), x_ND[n]).softmax(0);
        const auto chosen = ints(std::get<1>(score_E.detach().topk(2)));
        const auto sum = score_E[chosen[0]] + score_E[chosen[1]];
        auto y_D = share_2[1] * network(*made, quantised_ND[n], code_N[static_cast<size_t>(n)] % kExperts);
        for (const auto e : chosen) y_D = y_D + share_2[0] * score_E[e] / sum * network(*made, x_ND[n], e);
        rows.push_back(y_D);
      }
      return at::stack(rows);
    };
    const auto run = [&](const std::function<Tensor()>& forward) { return values_and_gradients(*made, x_ND, forward); };
    const auto fast = run([&] { return made->forward(x_ND, context_of(kTokens)).y_ND; });
    auto wanted = run(plain);
    wanted[1] = wanted[1] + quantised_ND.grad();
    for (size_t i = 0; i < fast.size(); ++i) CHECK(difference(fast[i], wanted[i]) < 1e-12);
    CHECK(quantised_ND.grad().abs().max().item<double>() > 1e-3);
    CHECK_FALSE(parameter(*made, "code").grad().defined());
  }
}

TEST_CASE("vector_quantised: one code, one expert, one answer") {
  const auto made = quantised();
  auto x_ND = inputs(kTokens, kWidth);
  x_ND.select(1, 0).fill_(1);
  // Only the discrete path counts.
  parameter(*made, "path").detach().zero_().select(1, 0).copy_(at::tensor(std::vector<double>{-9999, 9999}));
  const auto code_N = nearest_codes(x_ND, weight(*made, "code"));
  const auto y_ND = made->forward(x_ND, context_of(kTokens)).y_ND;
  int64_t pairs = 0;
  for (int64_t n = 0; n < kTokens; ++n) {
    const auto code = code_N[static_cast<size_t>(n)];
    CHECK(difference(y_ND[n], network(*made, weight(*made, "code")[code], code % kExperts)) < 1e-12);
    for (int64_t m = 0; m < n; ++m)
      if (code_N[static_cast<size_t>(m)] == code) {
        CHECK(difference(y_ND[m], y_ND[n]) < 1e-14);
        ++pairs;
      }
  }
  CHECK(pairs > 2);
}

TEST_CASE("vector_quantised: the codebook loss and its gradients, over real tokens only") {
  for (const bool is_masked : {false, true}) {
    const auto made = quantised({{"codebook_loss", 0.7}, {"commitment", 0.3}});
    const auto x_ND = inputs(kTokens, kWidth).requires_grad_(true);
    auto context = context_of(kTokens);
    const auto mask_N = at::arange(kTokens).ne(3).logical_and(at::arange(kTokens).lt(8));
    if (is_masked) context.mask_N = mask_N;
    const auto losses = made->forward(x_ND, context).losses;
    const auto& term = losses.back();
    CHECK(term.name == "codebook");
    term.value.backward();
    const auto code_N = nearest_codes(x_ND, weight(*made, "code"));
    const auto n_real = is_masked ? 7.0 : 10.0;
    double sum = 0;
    auto grad_x_ND = at::zeros({kTokens, kWidth}, at::kDouble), grad_code_VD = at::zeros({kCodes, kWidth}, at::kDouble);
    for (int64_t n = 0; n < kTokens; ++n) {
      if (is_masked && !mask_N[n].item<bool>()) continue;
      const auto code = code_N[static_cast<size_t>(n)];
      const auto off_D = x_ND.detach()[n] - weight(*made, "code")[code];
      sum += off_D.square().sum().item<double>() / kWidth / n_real;
      grad_x_ND[n] += 0.3 * 2 * off_D / kWidth / n_real;
      grad_code_VD[code] -= 0.7 * 2 * off_D / kWidth / n_real;
    }
    CHECK(term.raw == doctest::Approx(sum));
    CHECK(term.value.item<double>() == doctest::Approx((0.7 + 0.3) * sum));
    CHECK(difference(x_ND.grad(), grad_x_ND) < 1e-12);
    CHECK(difference(parameter(*made, "code").grad(), grad_code_VD) < 1e-12);
  }
}

TEST_CASE("vector_quantised: one code an expert unless told otherwise, and one expert more at work") {
  const auto made = make_layer(
      {.name = "vector_quantised",
       .fields = table({{"n_experts", kExperts}, {"d_expert", 4}, {"router", table({{"name", "top_k"}, {"k", 1}})}})},
      kWidth);
  CHECK(weight(*made, "code").size(0) == kExperts);
  const double expert = 3 * 4 * kWidth, choosing = (kExperts + kExperts + 2) * kWidth;
  CHECK(made->facts().parameters_active == 2 * expert + choosing);
  CHECK(made->facts().flops_per_token == 2 * (2 * expert + choosing));
}
