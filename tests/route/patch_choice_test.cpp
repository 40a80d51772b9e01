// Patch choice: exactly l patches an expert and image, its best ones; short and masked sequences; weights that sum to
// one.
//
// N tokens, B sequences of T tokens, E experts.
#include <ATen/ATen.h>

#include <algorithm>

#include "tests/support/gradcheck.h"
#include "tests/support/routing.h"

namespace {

using namespace collegium;
using namespace collegium::route;
using namespace collegium::test;

constexpr int64_t kWidth = 6, kExperts = 3;

Named patch_choice(int64_t l) {
  return {.name = "patch_choice", .fields = table({{"l", l}})};
}

Context images(int64_t B, int64_t T) {
  return {.sequence_N = at::arange(B, at::kLong).repeat_interleave(T), .n_sequences = B};
}

// By definition: sort each expert's scores of each sequence, the earlier token first among equals.
std::set<std::pair<int64_t, int64_t>> by_definition(const Tensor& score_NE, const Context& context, int64_t l) {
  std::set<std::pair<int64_t, int64_t>> out;
  const auto sequence = ints(context.sequence_N);
  for (int64_t b = 0; b < context.n_sequences; ++b)
    for (int64_t e = 0; e < score_NE.size(1); ++e) {
      const auto score = reals(score_NE.select(1, e));
      std::vector<int64_t> tokens;
      for (int64_t n = 0; n < score_NE.size(0); ++n)
        if (sequence[static_cast<size_t>(n)] == b && (!context.mask_N.defined() || context.mask_N[n].item<bool>()))
          tokens.push_back(n);
      std::stable_sort(tokens.begin(), tokens.end(), [&](int64_t i, int64_t j) {
        return score[static_cast<size_t>(i)] > score[static_cast<size_t>(j)];
      });
      for (size_t i = 0; i < std::min(tokens.size(), static_cast<size_t>(l)); ++i) out.emplace(tokens[i], e);
    }
  return out;
}

std::set<std::pair<int64_t, int64_t>> taken(const Decision& d) {
  std::set<std::pair<int64_t, int64_t>> out;
  const auto token = ints(d.token_R()), expert = ints(d.expert_R());
  for (size_t r = 0; r < token.size(); ++r) out.emplace(token[r], expert[r]);
  return out;
}

}  // namespace

TEST_CASE_FIXTURE(OneThread, "each expert takes its l best patches of each image") {
  const int64_t B = 4, T = 7;
  const auto x_ND = numbers(Random(3), {B * T, kWidth});
  for (const int64_t l : {1, 3, 7}) {
    const auto router = make_router(patch_choice(l), kWidth, kExperts);
    const auto context = images(B, T);
    const auto routing = router->route(x_ND, context);
    CHECK(taken(routing.decision) == by_definition(routing.scores.score_NE, context, l));
    CHECK(routing.decision.n_kept() == B * kExperts * l);
    CHECK(ints(routing.decision.kept_E()) == std::vector<int64_t>(kExperts, B * l));
  }
}

TEST_CASE_FIXTURE(OneThread, "an image's decision does not depend on the images around it") {
  const int64_t T = 5;
  const auto router = make_router(patch_choice(2), kWidth, kExperts);
  const auto x_ND = numbers(Random(3), {3 * T, kWidth});
  const auto all = router->route(x_ND, images(3, T)).decision;
  const auto alone = router->route(x_ND.slice(0, T, 2 * T), images(1, T)).decision;
  const auto in_second = all.token_R().ge(T).logical_and(all.token_R().lt(2 * T)).nonzero().flatten();
  CHECK(same_bits(all.token_R().index_select(0, in_second) - T, alone.token_R()));
  CHECK(same_bits(all.gate_R().detach().index_select(0, in_second), alone.gate_R().detach()));
  CHECK(same_bits(all.margin_R().index_select(0, in_second), alone.margin_R()));
}

TEST_CASE_FIXTURE(OneThread, "sequences of different lengths and masked tokens") {
  Context context{.sequence_N = at::tensor(std::vector<int64_t>{0, 0, 0, 0, 0, 2, 2, 2, 3}), .n_sequences = 4};
  context.mask_N = at::tensor(std::vector<int64_t>{1, 0, 1, 1, 1, 1, 1, 1, 0}).to(at::kBool);
  const auto router = make_router(patch_choice(4), kWidth, kExperts);
  const auto routing = router->route(numbers(Random(3), {9, kWidth}), context);
  CHECK(taken(routing.decision) == by_definition(routing.scores.score_NE, context, 4));
  CHECK(ints(routing.decision.kept_E()) == std::vector<int64_t>(kExperts, 7));  // 4 of the first, 3 of the second
  check_decision(routing.decision, 9, kExperts, context.mask_N);
}

TEST_CASE_FIXTURE(OneThread, "an expert's weights for an image sum to one and follow its own logits") {
  const int64_t B = 3, T = 6, l = 2;
  const auto router = make_router(patch_choice(l), kWidth, kExperts, 1, at::kDouble);
  const auto routing = router->route(numbers(Random(3), {B * T, kWidth}, -1, 1, at::kDouble), images(B, T));
  const auto& d = routing.decision;
  const auto token = ints(d.token_R()), expert = ints(d.expert_R());
  const auto gate = reals(d.gate_R());
  for (size_t r = 0; r < token.size(); ++r) {
    double sum = 0, wanted = 0;
    for (size_t s = 0; s < token.size(); ++s) {
      if (expert[s] != expert[r] || token[s] / T != token[r] / T) continue;
      sum += gate[s];
      wanted += std::exp(routing.scores.logit_NE[token[s]][expert[s]].item<double>() -
                         routing.scores.logit_NE[token[r]][expert[r]].item<double>());
    }
    CHECK(sum == doctest::Approx(1).epsilon(1e-12));
    CHECK(gate[r] == doctest::Approx(1 / wanted).epsilon(1e-12));
  }
}

TEST_CASE_FIXTURE(OneThread, "gradient of patch choice's weights") {
  const auto router = make_router(patch_choice(3), kWidth, kExperts, 1, at::kDouble);
  auto x_ND = numbers(Random(3), {8, kWidth}, -1, 1, at::kDouble).requires_grad_(true);
  std::vector<Variable> variables = {{"x", x_ND}};
  for (const auto& p : parameters_of(*router)) variables.push_back({p.name, *p.tensor});
  const auto report = check_gradients(
      [&] {
        const auto d = router->route(x_ND, images(2, 4)).decision;
        return Evaluated{d.gate_R(), at::stack({d.token_R(), d.expert_R()})};
      },
      variables);
  CHECK(report.is_smooth);
  CHECK_MESSAGE(report.worst < 1e-7, report.where);
  CHECK(report.largest > 1e-3);
}

TEST_CASE_FIXTURE(OneThread, "weights over an expert's choice need experts that choose") {
  CHECK(complaint([] {
          const auto named = stages({{"selector", "top_k"}, {"gate", "choice_softmax"}});
          make_router(named, kWidth, kExperts);
        }) == "router: gate 'choice_softmax' weighs what an expert chose, but selector 'top_k' lets tokens choose");
}

TEST_CASE_FIXTURE(OneThread, "l above the patches of an image is refused where their number is known") {
  const StageInputs inputs{.d_model = 4, .n_experts = 2, .options = at::kFloat, .corpus = {.sequence_length = 9}};
  const auto named = patch_choice(10);
  CHECK(complaint([&] { find(routers(), named, "router").make(named, inputs); }) ==
        "patch_choice: l = 10 is more than the 9 patches of an image");
  const auto fits = patch_choice(9);
  CHECK(find(routers(), fits, "router").make(fits, inputs)->facts().choices_per_token == 2);
}
