#include "collegium/kernels/grouped_top_k.h"

#include <cmath>

#include "check.h"

namespace kernels = collegium::kernels;
using namespace kernels_test;
using kernels::GroupScore;
using kernels::WithinGroups;

namespace {

void check_same(const kernels::GroupedTopK& a, const kernels::GroupedTopK& b) {
  CHECK(at::equal(a.expert_NK, b.expert_NK));
  CHECK(same_bits(a.score_NK, b.score_NK));
  CHECK(same_bits(a.margin_NK, b.margin_NK));
}

// Calls check(rule) for rules of every kind over E experts.
template <class Check>
void for_each_rule(int64_t E, const Check& check) {
  for (const auto score : {GroupScore::max, GroupScore::sum, GroupScore::top2_sum})
    for (const auto within : {WithinGroups::each, WithinGroups::together})
      for (const int64_t groups : {1, 2, 4, 8})
        for (const int64_t top_groups : {1, 2, 8})
          for (const int64_t k : {1, 2, 5, 30}) {
            if (E % groups != 0 || top_groups > groups) continue;
            if (k > E / groups * (within == WithinGroups::each ? 1 : top_groups)) continue;
            check(kernels::GroupRule{groups, top_groups, k, score, within});
          }
}

}  // namespace

TEST_CASE("grouped top k equals the composed one, ties, bias and NaN included") {
  uint64_t round = 0;
  for (const auto type : {at::kFloat, at::kDouble, at::kBFloat16})
    for (const int64_t E : {8, 40, 64})
      for_each_rule(E, [&](const kernels::GroupRule& rule) {
        const Random random(round++);
        // Whole numbers, so that every order of a sum gives the same; few of them, so that there are ties.
        auto score_NE = (random.at("s").normal({21, E}, 1, at::kDouble) * (round % 2 ? 2 : 1000)).round();
        const auto bias_E = (random.at("b").normal({E}, 1, at::kDouble) * 2).round();
        check_same(kernels::grouped_top_k(score_NE.to(type), rule),
                   kernels::plain::grouped_top_k(score_NE.to(type), rule));
        check_same(kernels::grouped_top_k(score_NE.to(type), rule, bias_E),
                   kernels::plain::grouped_top_k(score_NE.to(type), rule, bias_E));
        if (rule.top_groups != rule.groups || rule.within != WithinGroups::together) return;
        score_NE[3][E - 1].fill_(std::nan(""));
        check_same(kernels::grouped_top_k(score_NE.to(type), rule),
                   kernels::plain::grouped_top_k(score_NE.to(type), rule));
      });
}

TEST_CASE("grouped top k of real numbers equals the composed one but for the last digits of sums") {
  for_each_rule(64, [&](const kernels::GroupRule& rule) {
    const auto score_NE = Random(9).normal({50, 64}, 1, at::kDouble).sigmoid();
    const auto fast = kernels::grouped_top_k(score_NE, rule), plain = kernels::plain::grouped_top_k(score_NE, rule);
    CHECK(at::equal(fast.expert_NK, plain.expert_NK));
    CHECK(same_bits(fast.score_NK, plain.score_NK));
    CHECK(at::allclose(fast.margin_NK, plain.margin_NK, 1e-12, 1e-12));
  });
}

TEST_CASE("a token's groups do not depend on the batch or on the threads") {
  const kernels::GroupRule rule{8, 3, 6, GroupScore::top2_sum, WithinGroups::together};
  const auto score_NE = Random(10).normal({700, 64}, 1, at::kFloat);
  const auto all = kernels::grouped_top_k(score_NE, rule);
  const Threads scope(1);
  check_same(kernels::grouped_top_k(score_NE, rule), all);
  const auto one = kernels::grouped_top_k(score_NE.slice(0, 333, 334), rule);
  CHECK(at::equal(one.expert_NK, all.expert_NK.slice(0, 333, 334)));
  CHECK(same_bits(one.margin_NK, all.margin_NK.slice(0, 333, 334)));
  CHECK(kernels::grouped_top_k(score_NE.slice(0, 0, 0), rule).expert_NK.size(0) == 0);
}

TEST_CASE("grouped top k refuses what does not fit") {
  const auto refused = [](kernels::GroupRule rule, std::string_view words) {
    return complaint([&] { kernels::grouped_top_k(at::zeros({2, 8}), rule); }).find(words) != std::string::npos;
  };
  CHECK(refused({.groups = 3}, "do not divide"));
  CHECK(refused({.groups = 2, .top_groups = 3}, "top_groups = 3"));
  CHECK(refused({.groups = 2, .top_groups = 1, .k = 5}, "[1, 4]"));
  CHECK(complaint([] { kernels::grouped_top_k(at::zeros({2, 8}), {}, at::zeros({7})); }).find("bias of [8]") !=
        std::string::npos);
}
