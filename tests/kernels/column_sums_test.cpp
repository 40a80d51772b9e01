#include "collegium/kernels/column_sums.h"

#include <torch/csrc/autograd/autograd.h>

#include "check.h"

namespace kernels = collegium::kernels;
using namespace kernels_test;

TEST_CASE("column sums equal torch's, with the same bits on any number of threads") {
  for (const auto type : {at::kFloat, at::kDouble, at::kBFloat16})
    for (const int64_t n_tokens : {0, 1, 511, 512, 513, 3000})
      for (const int64_t n_experts : {1, 8, 67}) {
        const Random random(static_cast<uint64_t>(n_tokens));
        const auto value_NE = random.at("v").normal({n_tokens, n_experts}, 1, type);
        for (const auto& weight_N : {Tensor(), random.at("w").normal({n_tokens}, 1, type)}) {
          const auto sums = kernels::column_sums(value_NE, weight_N);
          const auto weight = weight_N.defined() ? weight_N.to(at::kDouble) : weight_N;
          CHECK(sums.sizes() == at::IntArrayRef({n_experts}));
          CHECK(difference(sums, kernels::plain::column_sums(value_NE.to(at::kDouble), weight)) < 4 * tolerance(type));
          const Threads scope(1);
          CHECK(same_bits(kernels::column_sums(value_NE, weight_N), sums));
        }
      }
}

TEST_CASE("column sums have torch's gradient") {
  const auto weight_N = Random(1).normal({7}, 1, at::kDouble);
  for (const auto& weight : {Tensor(), weight_N}) {
    const auto value_NE = Random(2).normal({7, 3}, 1, at::kDouble).requires_grad_();
    const auto gradient = [&](auto sums) {
      return torch::autograd::grad({sums(value_NE, weight).cos().sum()}, {value_NE})[0];
    };
    CHECK(difference(gradient(kernels::column_sums), gradient(kernels::plain::column_sums)) < 1e-12);
  }
}

TEST_CASE("column sums refuse what does not fit") {
  CHECK(complaint([] { kernels::column_sums(at::zeros({3})); }).find("[N, E]") != std::string::npos);
  CHECK(complaint([] { kernels::column_sums(at::zeros({3, 2}), at::zeros({2})); }).find("3 tokens") !=
        std::string::npos);
}
