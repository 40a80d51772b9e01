#include "collegium/kernels/router_linear.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>

#include "check.h"

namespace kernels = collegium::kernels;
using namespace kernels_test;

TEST_CASE("router logits equal at::linear") {
  uint64_t round = 0;
  for (const auto type : {at::kFloat, at::kDouble, at::kBFloat16})
    for (const int64_t n_tokens : {0, 1, 5, 200})
      for (const int64_t width : {1, 31, 256})
        for (const int64_t n_experts : {1, 8, 67}) {
          const Random random(round++);
          const auto x_ND = random.at("x").normal({n_tokens, width}, 1, type);
          const auto weight_ED = random.at("w").normal({n_experts, width}, 1, type);
          CHECK(difference(kernels::router_linear(x_ND, weight_ED), kernels::plain::router_linear(x_ND, weight_ED)) <
                tolerance(type));
        }
}

TEST_CASE("a token's logits do not depend on the batch or on the threads, to the bit") {
  for (const auto type : {at::kFloat, at::kDouble}) {
    const Random random(11);
    const auto x_ND = random.at("x").normal({700, 129}, 1, type), weight_ED = random.at("w").normal({61, 129}, 1, type);
    Tensor whole;
    for (const int threads : {1, 2}) {
      const Threads scope(threads);
      const auto logit_NE = kernels::router_linear(x_ND, weight_ED);
      if (whole.defined()) CHECK(same_bits(logit_NE, whole));
      whole = logit_NE;
      for (const auto& [from, to] : {std::pair<int64_t, int64_t>{0, 1}, {5, 8}, {63, 66}, {100, 699}, {699, 700}})
        CHECK(same_bits(kernels::router_linear(x_ND.slice(0, from, to), weight_ED), whole.slice(0, from, to)));
    }
  }
}

TEST_CASE("router gradients equal finite differences") {
  const Random random(12);
  const auto x_ND = random.at("x").normal({3, 5}, 1, at::kDouble).requires_grad_();
  const auto weight_ED = random.at("w").normal({4, 5}, 1, at::kDouble).requires_grad_();
  const auto cosine = [&] { return kernels::router_linear(x_ND, weight_ED).cos().sum(); };
  const auto grads = torch::autograd::grad({cosine()}, {x_ND, weight_ED});
  const at::NoGradGuard no_grad;
  for (size_t i = 0; i < 2; ++i) {
    auto flat = (i == 0 ? x_ND : weight_ED).view(-1);
    for (int64_t j = 0; j < flat.numel(); ++j) {
      const double before = flat[j].item<double>(), step = 1e-6;
      flat[j].fill_(before + step);
      const double above = cosine().item<double>();
      flat[j].fill_(before - step);
      const double below = cosine().item<double>();
      flat[j].fill_(before);
      CHECK(grads[i].view(-1)[j].item<double>() == doctest::Approx((above - below) / (2 * step)).epsilon(1e-6));
    }
  }
}

TEST_CASE("router logits have second derivatives") {
  const Random random(13);
  const auto x_ND = random.at("x").normal({3, 5}, 1, at::kDouble).requires_grad_();
  const auto weight_ED = random.at("w").normal({4, 5}, 1, at::kDouble).requires_grad_();
  const auto second = [&](auto linear) {
    const auto first = torch::autograd::grad({linear(x_ND, weight_ED).sin().sum()}, {x_ND}, {}, true, true)[0];
    return torch::autograd::grad({first.square().sum()}, {weight_ED})[0];
  };
  CHECK(difference(second(kernels::router_linear), second(kernels::plain::router_linear)) < 1e-12);
}

TEST_CASE("router_linear refuses what does not fit") {
  CHECK(complaint([] { kernels::router_linear(at::zeros({2, 3}), at::zeros({4, 5})); }).find("[4, 5]") !=
        std::string::npos);
  CHECK(complaint([] { kernels::router_linear(at::zeros({2, 3}), at::zeros({4, 3}, at::kDouble)); }).find("one type") !=
        std::string::npos);
}

TEST_CASE("router scores are the logits and their function, with and without gradient") {
  for (const auto type : {at::kFloat, at::kDouble, at::kBFloat16})
    for (const auto function : {kernels::ScoreFunction::softmax, kernels::ScoreFunction::sigmoid})
      for (const int64_t n_tokens : {0, 1, 65, 300})
        for (const int64_t n_experts : {1, 8, 67}) {
          const Random random(static_cast<uint64_t>(n_tokens + n_experts));
          auto x_ND = random.at("x").normal({n_tokens, 40}, 1, type);
          const auto weight_ED = random.at("w").normal({n_experts, 40}, 1, type);
          const auto at_once = kernels::router_scores(x_ND, weight_ED, function);
          const auto plain = kernels::plain::router_scores(x_ND, weight_ED, function);
          CHECK(same_bits(at_once.logit_NE, kernels::router_linear(x_ND, weight_ED)));
          CHECK(difference(at_once.score_NE, plain.score_NE) < 4 * tolerance(type));
          const auto learning = kernels::router_scores(x_ND.requires_grad_(), weight_ED, function);
          CHECK(learning.score_NE.requires_grad());
          CHECK_FALSE(at_once.score_NE.requires_grad());
          CHECK(same_bits(learning.logit_NE.detach(), at_once.logit_NE));
          CHECK(same_bits(learning.score_NE.detach(), at_once.score_NE));
        }
}
