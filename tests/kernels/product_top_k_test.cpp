#include "collegium/kernels/product_top_k.h"

#include <cmath>
#include <limits>

#include "check.h"

namespace kernels = collegium::kernels;
using namespace kernels_test;

namespace {

void check_same(const kernels::ProductTopK& a, const kernels::ProductTopK& b) {
  CHECK(at::equal(a.cell_NK, b.cell_NK));
  CHECK(same_bits(a.score_NK, b.score_NK));
  CHECK(same_bits(a.runner_up_N, b.runner_up_N));
}

}  // namespace

TEST_CASE("product top k equals a search through all sums") {
  uint64_t round = 0;
  for (const auto type : {at::kDouble, at::kFloat})
    for (const int64_t n_tokens : {0, 1, 40})
      for (const auto& [A, B] : {std::pair<int64_t, int64_t>{1, 1}, {1, 9}, {7, 3}, {16, 16}, {40, 33}})
        for (const int64_t k : {1, 2, 3, 16, 49, 256}) {
          if (k > A * B) continue;
          const Random random(round++);
          const auto first_NA = random.at("a").normal({n_tokens, A}, 1, type);
          const auto second_NB = random.at("b").normal({n_tokens, B}, 1, type);
          const auto fast = kernels::product_top_k(first_NA, second_NB, k);
          const auto all = kernels::plain::product_top_k(first_NA, second_NB, k);
          // Two float sums may round to one number; in double none of these do.
          if (type == at::kDouble) check_same(fast, all);
          CHECK(same_bits(fast.score_NK, all.score_NK));
          CHECK(same_bits(fast.runner_up_N, all.runner_up_N));
          CHECK(fast.cell_NK.is_contiguous());
        }
}

TEST_CASE("product top k with ties: the sums of a full search, every cell once, and the same again") {
  uint64_t round = 0;
  for (const int64_t k : {1, 5, 20, 63, 64}) {
    const Random random(round++);
    const auto first_NA = (random.at("a").normal({30, 8}, 1, at::kDouble)).round();
    const auto second_NB = (random.at("b").normal({30, 8}, 1, at::kDouble)).round();
    const auto fast = kernels::product_top_k(first_NA, second_NB, k);
    const auto all = kernels::plain::product_top_k(first_NA, second_NB, k);
    CHECK(same_bits(fast.score_NK, all.score_NK));
    CHECK(same_bits(fast.runner_up_N, all.runner_up_N));
    const auto sum_NK = first_NA.gather(1, fast.cell_NK.div(8, "floor")) + second_NB.gather(1, fast.cell_NK % 8);
    CHECK(same_bits(sum_NK, fast.score_NK));
    const auto sorted_NK = std::get<0>(fast.cell_NK.sort(1));
    CHECK((sorted_NK.diff(1, 1) > 0).all().item<bool>());
    const Threads scope(1);
    check_same(kernels::product_top_k(first_NA.slice(0, 7, 9), second_NB.slice(0, 7, 9), k),
               {fast.cell_NK.slice(0, 7, 9), fast.score_NK.slice(0, 7, 9), fast.runner_up_N.slice(0, 7, 9)});
  }
}

TEST_CASE("product top k takes infinities, strided scores and no gradient") {
  const double inf = std::numeric_limits<double>::infinity();
  const auto first_NA = at::tensor({-inf, 1.0, 2.0}, at::kDouble).view({1, 3});
  const auto second_NB = at::tensor({0.5, -inf}, at::kDouble).view({1, 2});
  const auto top = kernels::product_top_k(first_NA, second_NB, 2);
  CHECK(at::equal(top.cell_NK, at::tensor({4, 2}, at::kLong).view({1, 2})));
  CHECK(top.runner_up_N.item<double>() == -inf);
  const auto wide_N6 = Random(3).normal({5, 6}, 1, at::kDouble).requires_grad_();
  const auto halves = kernels::product_top_k(wide_N6.slice(1, 0, 3), wide_N6.slice(1, 3), 4);
  CHECK_FALSE(halves.score_NK.requires_grad());
  check_same(halves, kernels::plain::product_top_k(wide_N6.slice(1, 0, 3), wide_N6.slice(1, 3), 4));
}

TEST_CASE("product top k refuses what does not fit") {
  const auto says = [](int64_t n, int64_t k, std::string_view words) {
    return complaint([&] { kernels::product_top_k(at::zeros({2, 3}), at::zeros({n, 4}), k); }).find(words) !=
           std::string::npos;
  };
  CHECK(says(2, 13, "k must be in [1, 12]"));
  CHECK(says(2, 0, "k must be in [1, 12]"));
  CHECK(says(3, 1, "of one type wanted"));
}
