#include "collegium/kernels/routed_top_k.h"

#include "check.h"
#include "collegium/kernels/top_k.h"

namespace kernels = collegium::kernels;
using kernels::ChoiceWeight;
using kernels::GroupRule;
using kernels::ScoreFunction;
using namespace kernels_test;

namespace {

// The same, stage by stage.
kernels::RoutedTopK in_stages(const Tensor& x_ND, const Tensor& weight_ED, ScoreFunction function,
                              const GroupRule& rule, const Tensor& bias_E, const ChoiceWeight& weight) {
  const int64_t N = x_ND.size(0), E = weight_ED.size(0), k = rule.per_token();
  const auto scores = kernels::router_scores(x_ND, weight_ED, function);
  const auto token_NK = at::arange(N, at::kLong).unsqueeze(1).expand({N, k});
  const auto rank_NK = at::arange(k, at::kLong).unsqueeze(0).expand({N, k});
  kernels::GroupedTopK best;
  if (rule.groups > 1) {
    best = kernels::grouped_top_k(scores.score_NE, rule, bias_E);
  } else {
    const auto top = kernels::top_k(scores.score_NE, k, bias_E);
    best = {top.expert_NK, top.score_NK, top.score_NK - top.runner_up_N.unsqueeze(1)};
  }
  kernels::RoutedTopK out{
      scores,
      kernels::sort_assignments({token_NK.reshape({-1}), best.expert_NK.reshape({-1}), rank_NK.reshape({-1}),
                                 best.score_NK.reshape({-1}), best.margin_NK.reshape({-1})},
                                N, E),
      {}};
  const auto& rows = out.rows.sorted;
  out.gate_R = scores.score_NE.reshape({-1}).index_select(0, rows.token_R * E + rows.expert_R);
  if (weight.is_share) {
    const auto sum_N = at::zeros({N}, out.gate_R.options()).index_add(0, rows.token_R, out.gate_R);
    out.gate_R = out.gate_R / (sum_N.index_select(0, rows.token_R) + weight.epsilon);
  }
  if (weight.scale != 1) out.gate_R = out.gate_R * weight.scale;
  return out;
}

std::vector<std::pair<const char*, Tensor>> parts(const kernels::RoutedTopK& r) {
  const auto& rows = r.rows.sorted;
  return {{"logits", r.scores.logit_NE}, {"scores", r.scores.score_NE},
          {"token", rows.token_R},       {"expert", rows.expert_R},
          {"rank", rows.rank_R},         {"score", rows.score_R},
          {"margin", rows.margin_R},     {"slot", r.rows.slot_R},
          {"offset", r.rows.offset_E1},  {"gate", r.gate_R}};
}

// Inputs of which some tokens are alike, and some experts: then scores are equal.
Tensor repeating(const Random& random, int64_t n, int64_t width, at::ScalarType type) {
  const auto some = random.normal({n / 2 + 1, width}, 1, type);
  return at::cat({some, some}).slice(0, 0, n).contiguous();
}

}  // namespace

TEST_CASE("a routing in two passes is the routing of the stages, to the bit, for any number of threads") {
  struct Size {
    int64_t experts;
    GroupRule rule;
  };
  std::vector<Size> sizes;
  for (const auto& [n_experts, k] : {std::pair<int64_t, int64_t>{1, 1},
                                     {8, 1},
                                     {8, 2},
                                     {8, 8},
                                     {16, 3},
                                     {17, 1},
                                     {40, 2},
                                     {67, 5},
                                     {200, 1},
                                     {200, 2},
                                     {200, 20}})
    sizes.push_back({n_experts, {.k = k}});
  for (const auto score : {kernels::GroupScore::max, kernels::GroupScore::sum, kernels::GroupScore::top2_sum})
    for (const auto within : {kernels::WithinGroups::each, kernels::WithinGroups::together})
      sizes.push_back({24, {.groups = 4, .top_groups = 2, .k = 3, .group_score = score, .within = within}});
  uint64_t round = 0;
  for (const auto type : {at::kFloat, at::kDouble})
    for (const int threads : {1, 2})
      for (const int64_t n_tokens : {0, 1, 7, 300})
        for (const auto& [n_experts, rule] : sizes)
          for (const bool is_biased : {false, true}) {
            CAPTURE(n_tokens);
            CAPTURE(n_experts);
            CAPTURE(rule.k);
            CAPTURE(rule.groups);
            const Threads scope(threads);
            const Random random(round++);
            const auto x_ND = repeating(random.at("x"), n_tokens, 24, type);
            const auto weight_ED = repeating(random.at("w"), n_experts, 24, type);
            const auto bias_E = is_biased ? random.at("b").normal({n_experts}, 0.3, type) : Tensor();
            const auto function = round % 3 ? ScoreFunction::softmax : ScoreFunction::sigmoid;
            const ChoiceWeight weight{.is_share = round % 4 != 0, .scale = round % 5 ? 1 : 2.5, .epsilon = 1e-20};
            const auto got = parts(kernels::routed_top_k(x_ND, weight_ED, function, rule, bias_E, weight));
            const auto staged = parts(in_stages(x_ND, weight_ED, function, rule, bias_E, weight));
            for (size_t i = 0; i < got.size(); ++i)
              CHECK_MESSAGE(same_bits(got[i].second, staged[i].second), got[i].first);
          }
}

TEST_CASE("a routing in two passes equals the plain one") {
  for (const auto& [n_experts, k] : {std::pair<int64_t, int64_t>{6, 2}, {64, 1}, {64, 8}, {130, 2}})
    for (const int64_t groups : {1, 2}) {
      const GroupRule rule{
          .groups = groups, .top_groups = 1, .k = k, .group_score = kernels::GroupScore::top2_sum, .within = {}};
      const Random random(static_cast<uint64_t>(n_experts));
      const auto x_ND = random.at("x").normal({90, 33}, 1, at::kDouble);
      const auto weight_ED = random.at("w").normal({n_experts, 33}, 0.3, at::kDouble);
      const auto bias_E = random.at("b").normal({n_experts}, 0.1, at::kDouble);
      for (const auto function : {ScoreFunction::softmax, ScoreFunction::sigmoid}) {
        const ChoiceWeight weight{.is_share = true, .scale = 2, .epsilon = 0};
        const auto got = parts(kernels::routed_top_k(x_ND, weight_ED, function, rule, bias_E, weight));
        const auto wanted = parts(kernels::plain::routed_top_k(x_ND, weight_ED, function, rule, bias_E, weight));
        for (size_t i = 0; i < got.size(); ++i) {
          CAPTURE(got[i].first);
          CHECK(at::allclose(got[i].second.to(at::kDouble), wanted[i].second.to(at::kDouble), 1e-11, 1e-12));
        }
      }
    }
}

TEST_CASE("a routing in two passes refuses what does not fit") {
  const auto x_ND = at::zeros({3, 4}), weight_ED = at::zeros({5, 4});
  const auto run = [&](const Tensor& x, const Tensor& w, const GroupRule& rule, const Tensor& bias) {
    return complaint([&] { kernels::routed_top_k(x, w, ScoreFunction::softmax, rule, bias, {}); });
  };
  CHECK(run(x_ND, weight_ED, {.k = 6}, {}).find("k = 6 is not in [1, 5]") != std::string::npos);
  CHECK(run(x_ND, weight_ED, {.k = 0}, {}).find("k = 0 is not in [1, 5]") != std::string::npos);
  CHECK(run(x_ND, weight_ED, {.groups = 2}, {}).find("do not divide into 2 equal groups") != std::string::npos);
  CHECK(run(at::zeros({3, 3}), weight_ED, {}, {}).find("x [N, D] and weight [E, D]") != std::string::npos);
  CHECK(run(x_ND, weight_ED.to(at::kDouble), {}, {}).find("of one type") != std::string::npos);
  CHECK(run(x_ND, weight_ED, {}, at::zeros({4})).find("a bias of [5]") != std::string::npos);
}
