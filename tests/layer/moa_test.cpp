// Mixture of attention heads (Zhang 2022): heads by their definition, tokens with different numbers of heads, costs.
//
// B sequences, T tokens each, D model width, E heads, d head width.
#include "tests/support/attentions.h"

namespace {

using namespace collegium;
using namespace collegium::layer;
using namespace collegium::test;
using route::Phase;

constexpr int64_t kB = 2, kT = 7, kD = 8, kE = 5, kd = 4;

Named moa(const Value& router) {
  return {.name = "moa", .fields = table({{"n_experts", kE}, {"router", router}})};
}

Tensor weight(Attention& made, std::string_view name) {
  for (const auto& p : parameters_of(made))
    if (p.name == name) return p.tensor->detach();
  FAIL("no parameter " << name);
  return {};
}

Tensor inputs() {
  return numbers(Random(3), {kB, kT, kD}, -1, 1, at::kDouble);
}

// Every head for every token, as full attention computes it, weighed by the decision's gates.
Tensor by_hand(Attention& made, const route::Decision& d, const Tensor& x_BTD) {
  auto y_ND = at::zeros({kB * kT, kD}, at::kDouble);
  const auto key_value = weight(made, "key_value"), query = weight(made, "head_query"), out = weight(made, "head_out");
  for (int64_t e = 0; e < kE; ++e) {
    const auto head = make_attention({.name = "full"}, {.D = kD, .H = 2, .G = 1});
    // A full attention of two heads, the second of which is zero.
    for (const auto& p : parameters_of(*head)) {
      const auto zero = at::zeros({kd, kD}, at::kDouble);
      if (p.name == "qkv") p.tensor->copy_(at::cat({query[e], zero, key_value}));
      if (p.name == "out") p.tensor->copy_(at::cat({out[e], at::zeros({kD, kd}, at::kDouble)}, 1));
    }
    const auto all_ND = attend_all(*head, x_BTD).y_ND;
    for (int64_t r = 0; r < d.n_kept(); ++r)
      if (d.expert_R()[r].item<int64_t>() == e) {
        const auto token = d.token_R()[r].item<int64_t>();
        y_ND[token] += d.gate_R()[r] * all_ND[token];
      }
  }
  return y_ND;
}

}  // namespace

TEST_CASE_FIXTURE(OneThread, "moa by hand, with k heads, any number of heads, heads that choose, and drops") {
  const at::NoGradGuard no_grad;
  std::set<int64_t> numbers_of_heads;
  for (const Value& router : {Value("top_k"), Value("relu"), Value("expert_choice"),
                              Value(table({{"name", "top_k"}, {"capacity_factor", 0.5}}))}) {
    const auto made = make_attention(moa(router), {.D = kD});
    scale_parameters(*made->router(), 30);
    const auto out = attend_all(*made, inputs());
    REQUIRE(out.decision);
    check_decision(*out.decision, kB * kT, kE);
    CHECK(out.decision->n_kept() > 0);
    for (const auto n : ints(at::bincount(out.decision->token_R(), {}, kB * kT))) numbers_of_heads.insert(n);
    CHECK(difference(out.y_ND, by_hand(*made, *out.decision, inputs())) < 1e-12);
  }
  CHECK(numbers_of_heads.size() >= 3);
}

TEST_CASE_FIXTURE(OneThread, "moa: costs are those of the chosen heads, and the cache is one head's") {
  const auto made = make_attention(moa(table({{"name", "top_k"}, {"k", 2}})), {.D = kD});
  const auto f = made->facts(100);
  CHECK(f.n_experts == kE);
  CHECK(f.parameters_active == 2 * kd * kD + 2 * 2 * kd * kD + kE * kD);
  CHECK(f.flops_per_token == 2 * f.parameters_active + 2 * 2 * kd * 100);
  CHECK(f.cache_bytes_per_token == 2 * kd * 4);
  CHECK(f.is_causal);
  CHECK_FALSE(make_attention(moa("expert_choice"), {.D = kD})->facts(100).is_causal);
}

TEST_CASE("moa: routers that need what heads have not are refused") {
  CHECK(complaint([] { make_attention(moa("compete"), {.D = kD}); }).find("moa: router 'compete' needs experts") !=
        std::string::npos);
  CHECK(complaint([] { make_attention(moa("attention_aware"), {.D = kD}); }).find("needs attention") !=
        std::string::npos);
}
