#include "collegium/kernels/top_k.h"

#include <cmath>
#include <limits>

#include "check.h"
#include "collegium/kernels/isa.h"

namespace kernels = collegium::kernels;
using namespace kernels_test;

namespace {

void check_top_k_equal(const kernels::TopK& a, const kernels::TopK& b) {
  CHECK(at::equal(a.expert_NK, b.expert_NK));
  CHECK(same_bits(a.score_NK, b.score_NK));
  CHECK(same_bits(a.runner_up_N, b.runner_up_N));
}

}  // namespace

TEST_CASE("top k equals the stable sort, ties included") {
  const Random random(2);
  uint64_t round = 0;
  for (const auto type : {at::kFloat, at::kDouble, at::kBFloat16})
    for (const int64_t n_tokens : {0, 1, 33})
      for (const int64_t n_experts : {1, 8, 50})
        for (const int64_t k : {1, 2, 8, 50}) {
          if (k > n_experts) continue;
          auto score_NE = random.at(round++).normal({n_tokens, n_experts}, 1, at::kDouble);
          if (round % 2) score_NE = (score_NE * 2).round();  // few values, many ties
          const auto scores = score_NE.to(type);
          check_top_k_equal(kernels::top_k(scores, k), kernels::plain::top_k(scores, k));
        }
}

TEST_CASE("top k gives ties to the lower id and knows the runner-up") {
  const auto score_NE = at::tensor({0.5, 0.7, 0.7, 0.5}, at::kDouble).view({1, 4});
  const auto top = kernels::top_k(score_NE, 3);
  CHECK(at::equal(top.expert_NK, at::tensor({1, 2, 0}, at::kLong).view({1, 3})));
  CHECK(top.runner_up_N.item<double>() == 0.5);
  CHECK(kernels::top_k(score_NE, 4).runner_up_N.item<double>() == -std::numeric_limits<double>::infinity());
}

TEST_CASE("top k survives NaN and infinities") {
  const double nan = std::nan(""), inf = std::numeric_limits<double>::infinity();
  const auto score_NE =
      at::tensor({nan, nan, nan, nan, 1.0, nan, 2.0, nan, -inf, -inf, inf, -inf}, at::kDouble).view({3, 4});
  for (const auto type : {at::kFloat, at::kDouble})
    for (const int64_t k : {1, 2, 3, 4}) {
      const auto top = kernels::top_k(score_NE.to(type), k);
      check_top_k_equal(top, kernels::plain::top_k(score_NE.to(type), k));
      CHECK(top.expert_NK.min().item<int64_t>() >= 0);
      CHECK(top.expert_NK.max().item<int64_t>() < 4);
    }
}

TEST_CASE("top k carries no gradient and takes strided scores") {
  const auto score_EN = Random(3).normal({6, 5}, 1, at::kFloat).requires_grad_();
  const auto top = kernels::top_k(score_EN.t(), 2);
  CHECK_FALSE(top.score_NK.requires_grad());
  CHECK_FALSE(top.runner_up_N.requires_grad());
  check_top_k_equal(top, kernels::plain::top_k(score_EN.t(), 2));
}

TEST_CASE("top k refuses a k that does not fit") {
  const auto score_NE = at::zeros({2, 4});
  CHECK(complaint([&] { kernels::top_k(score_NE, 5); }).find("[1, 4]") != std::string::npos);
  CHECK(complaint([&] { kernels::top_k(score_NE, 0); }).find("got 0") != std::string::npos);
  CHECK(complaint([&] { kernels::top_k(score_NE.to(at::kLong), 1); }).find("floating point") != std::string::npos);
}

TEST_CASE("every instruction set's top loop equals the stable sort") {
  const double nan = std::nan(""), inf = std::numeric_limits<double>::infinity();
  const auto check = [&]<class C>(const kernels::ScoreLoops<C>& loop, at::ScalarType type) {
    uint64_t round = 0;
    for (const int64_t n : {1, 3, 4, 15, 16, 17, 31, 40, 64, 65, 130, 256, 300})
      for (const int64_t keep : {1, 2, 3, 9, 16, 17, 40})
        for (const int64_t few_values : {0, 1, 2, 3}) {
          if (keep > n) continue;
          CAPTURE(n);
          CAPTURE(keep);
          auto row = Random(round++).normal({n}, 1, at::kDouble);
          if (few_values > 0) row = (row * static_cast<double>(few_values)).round() / static_cast<double>(few_values);
          if (few_values == 2) row[round % static_cast<uint64_t>(n)].fill_(round % 3 ? nan : inf);
          if (few_values == 3) row.masked_fill_(row.lt(0.5), -inf);
          row = row.to(type);
          auto best = at::empty({keep}, type);
          auto where = at::empty({keep}, at::kLong);
          loop.top(static_cast<const C*>(row.const_data_ptr()), n, keep, static_cast<C*>(best.mutable_data_ptr()),
                   static_cast<int64_t*>(where.mutable_data_ptr()));
          const auto [sorted, order] = at::sort(row, /*stable=*/true, 0, /*descending=*/true);
          CHECK(at::equal(where, order.slice(0, 0, keep)));
          CHECK(same_bits(best, sorted.slice(0, 0, keep)));
        }
  };
  for (const auto& isa : kernels::isas()) {
    if (!isa.supported()) continue;
    CAPTURE(isa.name);
    check(isa.loops->scores_of_float, at::kFloat);
    check(isa.loops->scores_of_double, at::kDouble);
  }
}

TEST_CASE("top k adds the bias before it compares, rounded to the scores' type") {
  const auto score_NE = Random(4).normal({70, 37}, 1, at::kFloat), bias_E = Random(5).normal({37}, 1, at::kDouble);
  check_top_k_equal(kernels::top_k(score_NE, 3, bias_E), kernels::top_k(score_NE + bias_E.to(at::kFloat), 3));
  check_top_k_equal(kernels::plain::top_k(score_NE, 3, bias_E), kernels::top_k(score_NE, 3, bias_E));
  CHECK(complaint([&] { kernels::top_k(score_NE, 3, bias_E.slice(0, 1)); }).find("bias of [37]") != std::string::npos);
}
