// Merging experts (SMEAR) against the explicit weighted mean of their parameters.
//
// N tokens, D model width, E experts, G groups.
#include "tests/support/gradcheck.h"
#include "tests/support/layers.h"

namespace {

using namespace collegium;
using namespace collegium::layer;
using namespace collegium::test;
using route::Phase;

constexpr int64_t kTokens = 12, kWidth = 5, kExperts = 3;

std::unique_ptr<MoeLayer> merged(std::initializer_list<std::pair<std::string, Value>> more = {}) {
  const auto scorer = table({{"name", "linear"}, {"init_scale", 9.0}});
  auto fields = table({{"n_experts", kExperts}, {"d_expert", 4}, {"scorer", scorer}});
  for (const auto& [key, value] : more) fields.set(key, value);
  return make_layer({.name = "merged", .fields = fields}, kWidth);
}

// One network per group, with ordinary torch operations: merge, then apply. `group` and `source` by token and group.
Tensor explicit_merge(MoeLayer& made, const Tensor& x_ND, const std::vector<int64_t>& group_N,
                      const std::vector<int64_t>& source_G, const std::vector<int64_t>& real_N) {
  const auto logit_NE = at::linear(x_ND, parameter(made, "scorer.weight"));
  const auto rows_of = [&](int64_t g, bool only_real) {
    std::vector<int64_t> rows;
    for (size_t n = 0; n < group_N.size(); ++n)
      if (group_N[n] == g && (!only_real || real_N[n])) rows.push_back(static_cast<int64_t>(n));
    return rows;
  };
  auto y_ND = at::zeros(x_ND.sizes(), at::kDouble);
  for (size_t g = 0; g < source_G.size(); ++g) {
    auto weight_E = at::full({kExperts}, 1.0 / kExperts, at::kDouble);
    if (source_G[g] >= 0)
      if (const auto rows = rows_of(source_G[g], true); !rows.empty())
        weight_E = logit_NE.index_select(0, at::tensor(rows)).mean(0).softmax(0);
    auto up_HD = at::zeros({8, kWidth}, at::kDouble), down_DI = at::zeros({kWidth, 4}, at::kDouble);
    for (int64_t e = 0; e < kExperts; ++e) {
      up_HD = up_HD + weight_E[e] * parameter(made, "experts.gate_up")[e];
      down_DI = down_DI + weight_E[e] * parameter(made, "experts.down")[e];
    }
    const auto rows = at::tensor(rows_of(static_cast<int64_t>(g), true));
    if (rows.numel()) y_ND = y_ND.index_add(0, rows, swiglu(x_ND.index_select(0, rows), up_HD, down_DI));
  }
  return y_ND;
}

// Value and every gradient of both sides.
void check_equal(MoeLayer& made, const route::Context& context, const std::vector<int64_t>& group_N,
                 const std::vector<int64_t>& source_G) {
  const auto real_N = context.mask_N.defined() ? ints(context.mask_N) : std::vector<int64_t>(kTokens, 1);
  const auto x_ND = inputs(kTokens, kWidth).requires_grad_(true);
  const auto run = [&](const std::function<Tensor()>& forward) { return values_and_gradients(made, x_ND, forward); };
  const auto fast = run([&] { return made.forward(x_ND, context).y_ND; });
  const auto plain = run([&] { return explicit_merge(made, x_ND, group_N, source_G, real_N); });
  for (size_t i = 0; i < fast.size(); ++i) CHECK(difference(fast[i], plain[i]) < 1e-12);
}

}  // namespace

TEST_CASE("merged: one network of weighted mean parameters for each sequence, with its gradients") {
  const auto made = merged();
  auto context = context_of(kTokens, 3);
  const std::vector<int64_t> group_N = {0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2};
  check_equal(*made, context, group_N, {0, 1, 2});
  context.mask_N = at::tensor(std::vector<int64_t>{1, 1, 0, 1, 0, 0, 0, 0, 1, 1, 1, 0}).to(at::kBool);
  check_equal(*made, context, group_N, {0, 1, 2});
}

TEST_CASE("merged: by segment, from the segment before in the same sequence, the first from all alike") {
  const auto made = merged({{"scope", "segment"}, {"segment", 2}});
  auto context = context_of(kTokens, 3);
  const std::vector<int64_t> group_N = {0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5};
  check_equal(*made, context, group_N, {-1, 0, -1, 2, -1, 4});
  context.mask_N = at::tensor(std::vector<int64_t>{1, 1, 0, 1, 0, 0, 1, 1, 1, 0, 1, 1}).to(at::kBool);
  check_equal(*made, context, group_N, {-1, 0, -1, 2, -1, 4});
  // Sequences of uneven length, the last segment short.
  context = context_of(kTokens, 2);
  context.sequence_N = at::tensor(std::vector<int64_t>{0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1});
  check_equal(*made, context, {0, 0, 1, 1, 2, 3, 3, 4, 4, 5, 5, 6}, {-1, 0, 1, -1, 3, 4, 5});
  CHECK(made->facts().is_causal);
  CHECK_FALSE(merged()->facts().is_causal);
}

TEST_CASE("merged: derivatives by finite differences, through noise and mask") {
  for (const char* scope : {"sequence", "segment"}) {
    const auto made = merged({{"scope", scope}, {"segment", 2}, {"expert_dropout", 0.3}});
    auto x_ND = inputs(kTokens, kWidth).requires_grad_(true);
    auto context = context_of(kTokens, 3, Phase::recompute);
    context.mask_N = at::arange(kTokens).ne(2);
    std::vector<Variable> variables = {{"x", x_ND}};
    for (const auto& p : parameters_of(*made)) variables.push_back({p.name, *p.tensor});
    const auto report = check_gradients([&] { return Evaluated{made->forward(x_ND, context).y_ND, {}}; }, variables);
    CAPTURE(report.where);
    CHECK(report.worst < 1e-8);
    CHECK(report.largest > 1e-2);
  }
}

TEST_CASE("merged: with all weight on one expert it is that expert") {
  for (const auto* kind : experts()) {
    const auto made = make_layer(
        {.name = "merged",
         .fields = table({{"n_experts", kExperts}, {"d_expert", 4}, {"expert", std::string(kind->card.name)}})},
        kWidth);
    auto x_ND = inputs(kTokens, kWidth);
    x_ND.select(1, 0).fill_(1);
    const auto single = kind->make({.name = std::string(kind->card.name)}, {.n_experts = kExperts,
                                                                            .d_model = kWidth,
                                                                            .d_expert = 4,
                                                                            .random = Random(1).at("experts"),
                                                                            .options = at::kDouble});
    for (int64_t e = 0; e < kExperts; ++e) {
      parameter(*made, "scorer.weight")
          .detach()
          .zero_()
          .select(1, 0)
          .copy_(at::where(at::arange(kExperts).eq(e), 9999.0, 0.0));
      CHECK(difference(made->forward(x_ND, context_of(kTokens, 3)).y_ND, single->one(x_ND, e)) < 1e-14);
    }
  }
}

TEST_CASE("merged: dropout leaves experts out of the mean, never all of them, and only in training") {
  const auto all = merged({{"expert_dropout", 1.0}}), none = merged({{"expert_dropout", 0.0}}),
             half = merged({{"expert_dropout", 0.5}});
  const auto x_ND = inputs(kTokens, kWidth);
  const auto y = [&](MoeLayer& made, Phase phase) { return made.forward(x_ND, context_of(kTokens, 3, phase)).y_ND; };
  CHECK(same_bits(y(*all, Phase::train), y(*none, Phase::train)));
  CHECK(same_bits(y(*half, Phase::evaluate), y(*none, Phase::evaluate)));
  CHECK_FALSE(same_bits(y(*half, Phase::train), y(*none, Phase::train)));
  CHECK(same_bits(y(*half, Phase::train), y(*half, Phase::recompute)));
}

TEST_CASE("merged: costs one expert, plus the merge once a segment or sequence") {
  const double expert = 3 * 4 * kWidth, router = kExperts * kWidth;
  const auto facts = merged({{"scope", "segment"}, {"segment", 6}})->facts();
  CHECK(facts.parameters_active == expert + router);
  CHECK(facts.flops_per_token == doctest::Approx(2 * expert + 2 * kExperts * expert / 6 + 2 * router));
  const auto whole = merged({{"scope", "sequence"}})->facts();
  CHECK(whole.flops_per_token == 2 * expert + 2 * router);
  CHECK(whole.flops_at(12) == doctest::Approx(2 * expert + 2 * router + 2 * kExperts * expert / 12));
  CHECK(facts.reads_other_tokens);
  CHECK(facts.n_experts == kExperts);
}

TEST_CASE("merged: its trace has the weights of the merge") {
  const auto made = merged();
  auto context = context_of(kTokens, 3);
  CHECK_FALSE(made->forward(inputs(kTokens, kWidth), context).decision);
  context.record = true;
  const auto out = made->forward(inputs(kTokens, kWidth), context);
  REQUIRE(out.decision);
  check_decision(*out.decision, kTokens, kExperts);
  CHECK(out.decision->n_kept() == kTokens * kExperts);
  const auto wanted_GE =
      at::linear(inputs(kTokens, kWidth), weight(*made, "scorer.weight")).view({3, 4, kExperts}).mean(1).softmax(1);
  CHECK(difference(out.score_NE, wanted_GE.repeat_interleave(4, 0)) < 1e-12);
}

TEST_CASE("merged: only softmax scores make a mean") {
  const auto said = complaint([] { merged({{"scorer", table({{"name", "linear"}, {"activation", "sigmoid"}})}}); });
  CHECK(said.find("needs softmax scores") != std::string::npos);
}
