#include "collegium/kernels/pairs.h"

#include <torch/csrc/autograd/autograd.h>

#include <array>

#include "check.h"
#include "collegium/kernels/experts.h"
#include "collegium/kernels/group.h"

namespace kernels = collegium::kernels;
using namespace kernels_test;

namespace {

struct Problem {
  Tensor x_ND, weight_ED, factor_R, token_R, offset_E1;
};

// R pairs of random tokens and experts, tokens in any order within an expert and perhaps twice.
Problem make_problem(int64_t N, int64_t D, int64_t E, int64_t R, at::ScalarType type, uint64_t seed) {
  const Random random(seed);
  const auto grouped = kernels::group_by_expert(random_ids(random.at("e"), R, E), E);
  return {random.at("x").normal({N, D}, 1, type).requires_grad_(),
          random.at("w").normal({E, D}, 1, type).requires_grad_(),
          random.at("f").normal({R}, 1, type == at::kDouble ? at::kDouble : at::kFloat).requires_grad_(),
          random_ids(random.at("t"), R, N), grouped.offset_E1};
}

// Value and gradients of both functions, along fixed directions.
std::vector<Tensor> all_of(const Problem& p, bool is_plain) {
  const auto product_R = is_plain ? kernels::plain::pair_products(p.x_ND, p.weight_ED, p.token_R, p.offset_E1)
                                  : kernels::pair_products(p.x_ND, p.weight_ED, p.token_R, p.offset_E1);
  const auto sum_ND = is_plain
                          ? kernels::plain::pair_sums(p.factor_R, p.weight_ED, p.token_R, p.offset_E1, p.x_ND.size(0))
                          : kernels::pair_sums(p.factor_R, p.weight_ED, p.token_R, p.offset_E1, p.x_ND.size(0));
  std::vector<Tensor> out = {product_R.detach(), sum_ND.detach()};
  const auto along = [](const Tensor& t) { return Random(5).normal(t.sizes(), 1, t.options()); };
  for (const auto& g : torch::autograd::grad({product_R}, {p.x_ND, p.weight_ED}, {along(product_R)})) out.push_back(g);
  for (const auto& g : torch::autograd::grad({sum_ND}, {p.factor_R, p.weight_ED}, {along(sum_ND)})) out.push_back(g);
  return out;
}

}  // namespace

TEST_CASE("products and sums of pairs equal gathered rows, values and gradients") {
  uint64_t seed = 0;
  for (const auto type : {at::kFloat, at::kDouble, at::kBFloat16})
    for (const int64_t D : {1, 17, 64})
      for (const auto& [N, E, R] :
           {std::array<int64_t, 3>{3, 4, 0}, {1, 1, 1}, {1, 6, 9}, {20, 300, 70}, {50, 6, 200}, {33, 16, 16}}) {
        const auto p = make_problem(N, D, E, R, type, seed++);
        const auto fast = all_of(p, false), plain = all_of(p, true);
        REQUIRE(fast.size() == plain.size());
        for (size_t i = 0; i < fast.size(); ++i) {
          CAPTURE(i);
          CHECK((fast[i].scalar_type() == plain[i].scalar_type()));
          CHECK(difference(fast[i], plain[i]) < tolerance(type));
        }
      }
}

TEST_CASE("experts of one hidden unit are the general experts with I = 1") {
  const auto p = make_problem(40, 24, 9, 160, at::kDouble, 3);
  const auto down_ED = Random(8).normal({9, 24}, 1, at::kDouble);
  const auto h_R = kernels::pair_products(p.x_ND, p.weight_ED, p.token_R, p.offset_E1);
  const auto y_ND = kernels::pair_sums(at::gelu(h_R) * p.factor_R, down_ED, p.token_R, p.offset_E1, 40);
  CHECK(difference(y_ND, kernels::gelu_experts(p.x_ND, p.factor_R, p.token_R, p.offset_E1, p.weight_ED.unsqueeze(1),
                                               down_ED.unsqueeze(2))) < 1e-12);
}

TEST_CASE("pairs give the same bits for any number of threads, and in any company") {
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    const auto p = make_problem(90, 65, 12, 700, type, 4);
    std::vector<Tensor> first;
    for (const int threads : {1, 2, 3}) {
      const Threads scope(threads);
      const auto now = all_of(p, false);
      for (size_t i = 0; i < first.size(); ++i) CHECK(same_bits(now[i], first[i]));
      first = now;
    }
    // One pair alone: one row, where many rows of an expert take another loop.
    const auto offset = p.offset_E1;
    for (int64_t e = 0; e < 12; ++e) {
      const auto r = offset[e].item<int64_t>();
      if (r == offset[e + 1].item<int64_t>()) continue;
      const auto alone_1 = kernels::pair_products(p.x_ND, p.weight_ED.slice(0, e, e + 1), p.token_R.slice(0, r, r + 1),
                                                  at::tensor({0, 1}, at::kLong));
      CHECK(same_bits(alone_1.detach(), first[0].slice(0, r, r + 1)));
    }
  }
}

TEST_CASE("pairs refuse what does not fit") {
  const auto p = make_problem(5, 3, 4, 6, at::kFloat, 1);
  const auto says = [](const auto& call, std::string_view words) {
    return complaint(call).find(words) != std::string::npos;
  };
  CHECK(says([&] { kernels::pair_products(p.x_ND, at::zeros({4, 2}), p.token_R, p.offset_E1); }, "wanted, got"));
  CHECK(says([&] { kernels::pair_products(p.x_ND, p.weight_ED.to(at::kDouble), p.token_R, p.offset_E1); }, "one type"));
  CHECK(says([&] { kernels::pair_products(p.x_ND, p.weight_ED, p.token_R + 5, p.offset_E1); }, "pair_products"));
  CHECK(
      says([&] { kernels::pair_products(p.x_ND, p.weight_ED, p.token_R, p.offset_E1.slice(0, 1)); }, "pair_products"));
  CHECK(says([&] { kernels::pair_sums(at::zeros({5}), p.weight_ED, p.token_R, p.offset_E1, 5); }, "factor [R]"));
  CHECK(says(
      [&] {
        const auto y = kernels::pair_products(p.x_ND, p.weight_ED, p.token_R, p.offset_E1);
        torch::autograd::grad({y.sum()}, {p.x_ND}, {}, true, true);
      },
      "no derivative of its own"));
}
