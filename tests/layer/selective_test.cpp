// Selective multi-head attention: with all heads on it is the whole block, otherwise each head reads its own tokens.
//
// B sequences, T tokens each, N = B T, D model width, H heads, d head width.
#include <cmath>

#include "tests/support/attentions.h"

namespace {

using namespace collegium;
using namespace collegium::layer;
using namespace collegium::test;

constexpr int64_t kB = 2, kT = 7, kD = 16, kH = 4, kd = kD / kH;
constexpr AttentionSizes kSizes = {.D = kD, .H = kH, .G = kH};

Table router(int64_t k, bool weighed, double data_share = 0) {
  return table({{"name", "union"}, {"k", k}, {"weighed", weighed}, {"data_share", data_share}});
}

std::unique_ptr<Attention> selective(const Table& by) {
  return make_attention({.name = "selective", .fields = table({{"router", by}})}, kSizes);
}

Tensor parameter(Attention& made, std::string_view name) {
  for (const auto& p : parameters_of(made))
    if (p.name == name) return *p.tensor;
  FAIL("no parameter " << name);
  return {};
}

Tensor words() {
  return numbers(Random(3), {kB, kT, kD}, -1, 1, at::kDouble);
}

}  // namespace

TEST_CASE("selective: with all heads on, the sum of the heads is the block, values and gradients") {
  const auto heads = selective(router(kH, false));
  const auto block = make_attention({.name = "full"}, kSizes);
  // The block's rows are all queries, all keys, all values; a head has its own three.
  const auto qkv_HXD = parameter(*heads, "qkv");
  {
    const at::NoGradGuard no_grad;
    const auto parts = qkv_HXD.reshape({kH, 3, kd, kD}).transpose(0, 1).reshape({3 * kD, kD});
    parameter(*block, "qkv").copy_(parts);
    parameter(*block, "out").copy_(parameter(*heads, "out").transpose(0, 1).reshape({kD, kD}));
  }
  const auto run = [&](Attention& made) {
    const auto x_BTD = words().requires_grad_(true);
    const auto y_ND = attend_all(made, x_BTD).y_ND;
    (y_ND * numbers(Random(8), {kB * kT, kD}, -1, 1, at::kDouble)).sum().backward();
    return std::vector<Tensor>{y_ND.detach(), x_BTD.grad(), parameter(made, "qkv").grad(),
                               parameter(made, "out").grad()};
  };
  const auto ours = run(*heads), whole = run(*block);
  CHECK(difference(ours[0], whole[0]) < 1e-12);
  CHECK(difference(ours[1], whole[1]) < 1e-12);
  CHECK(difference(ours[2].reshape({kH, 3, kd, kD}).transpose(0, 1).reshape({3 * kD, kD}), whole[2]) < 1e-12);
  CHECK(difference(ours[3].transpose(0, 1).reshape({kD, kD}), whole[3]) < 1e-12);
}

TEST_CASE("selective: a head reads and answers its own tokens, at their places") {
  for (const double data_share : {0.0, 0.4}) {
    const auto made = selective(router(2, true, data_share));
    const auto x_BTD = words();
    const auto out = attend_all(*made, x_BTD);
    const auto& decision = *out.decision;
    const auto gate_NH = at::zeros({kB * kT, kH}, at::kDouble);
    const auto token = ints(decision.token_R()), head = ints(decision.expert_R());
    for (size_t r = 0; r < token.size(); ++r)
      gate_NH[token[r]][head[r]] = decision.gate_R()[static_cast<int64_t>(r)].detach();
    const auto rotation = kernels::rotation(0, kT, kd, 100, at::kDouble);
    auto y_ND = at::zeros({kB * kT, kD}, at::kDouble);
    for (int64_t h = 0; h < kH; ++h) {
      const auto qkv = at::linear(x_BTD, parameter(*made, "qkv")[h].detach()).view({kB, kT, 3, kd});
      const auto turned = kernels::rotate(qkv.slice(2, 0, 2), rotation);
      for (int64_t b = 0; b < kB; ++b)
        for (int64_t t = 0; t < kT; ++t) {
          const auto n = b * kT + t;
          if (gate_NH[n][h].item<double>() == 0) continue;
          std::vector<Tensor> score, value;
          for (int64_t s = 0; s <= t; ++s) {
            if (gate_NH[b * kT + s][h].item<double>() == 0) continue;
            score.push_back(turned[b][t][0].dot(turned[b][s][1]) / std::sqrt(static_cast<double>(kd)));
            value.push_back(qkv[b][s][2]);
          }
          const auto mixed_d = at::matmul(at::stack(score).softmax(0), at::stack(value));
          y_ND[n] += gate_NH[n][h] * at::matmul(parameter(*made, "out")[h].detach(), mixed_d);
        }
    }
    CHECK(difference(out.y_ND, y_ND) < 1e-12);
  }
}

TEST_CASE("selective: k of H heads are k / H of the projections and (k / H)^2 of the reading") {
  const auto full = make_attention({.name = "full"}, kSizes)->facts(40);
  const auto half = selective(router(2, true))->facts(40), all = selective(router(kH, true))->facts(40);
  const double scores = kD * kH;
  CHECK(all.parameters_active == full.parameters_active + scores);
  CHECK(all.flops_per_token == full.flops_per_token + 2 * scores);
  CHECK(half.parameters_active == full.parameters_active / 2 + scores);
  CHECK(half.flops_per_token == full.parameters_active + 2 * kD * 40 / 4.0 + 2 * scores);
  CHECK(half.is_causal);
  CHECK_FALSE(selective(router(2, true, 0.5))->facts(40).is_causal);
}

TEST_CASE("selective: what it cannot be built from is refused") {
  CHECK(complaint([] {
          make_attention({.name = "selective"}, {.D = 16, .H = 4, .G = 2});
        }).find("n_kv_heads = 2 is not n_heads = 4") != std::string::npos);
  CHECK(complaint([] {
          make_attention({.name = "selective", .fields = table({{"router", "attention_aware"}})}, kSizes);
        }).find("a router of heads cannot have") != std::string::npos);
}
