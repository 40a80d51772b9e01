#include "collegium/kernels/top_k.h"

#include <cmath>
#include <limits>

#include "check.h"

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
