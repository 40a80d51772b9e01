#include "collegium/kernels/product_top_k.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "collegium/base/error.h"
#include "collegium/kernels/top_k.h"
#include "collegium/kernels/work.h"

namespace collegium::kernels {
namespace {

void check_product(const Tensor& first_NA, const Tensor& second_NB, int64_t k) {
  require(first_NA.dim() == 2 && second_NB.dim() == 2 && first_NA.size(0) == second_NB.size(0) &&
              at::isFloatingType(first_NA.scalar_type()) && first_NA.scalar_type() == second_NB.scalar_type(),
          "product_top_k: floating point scores [N, A] and [N, B] of one type wanted, got ", first_NA.scalar_type(),
          " ", first_NA.sizes(), " and ", second_NB.scalar_type(), " ", second_NB.sizes());
  const auto cells = first_NA.size(1) * second_NB.size(1);
  require(k >= 1 && k <= cells, "product_top_k: k must be in [1, ", cells, "], the number of cells, got ", k);
}

// `top` of loops.h sorts up to 16 in registers and inserts one by one beyond that; for many, selecting is faster.
constexpr int64_t most_kept_by_loop = 32;

// The same as `top`: the first `keep` of the row in descending order, NaN above all, of equals the first.
template <class C>
void top_of(const C* row, int64_t n, int64_t keep, C* best, int64_t* where, std::vector<std::pair<C, int32_t>>& pairs) {
  if (keep <= most_kept_by_loop) return score_loops<C>().top(row, n, keep, best, where);
  pairs.resize(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) pairs[static_cast<size_t>(i)] = {row[i], static_cast<int32_t>(i)};
  const auto is_ahead = [](const auto& a, const auto& b) {
    if (a.first > b.first) return true;
    if (a.first < b.first) return false;
    const bool is_nan = a.first != a.first;
    return is_nan == (b.first != b.first) ? a.second < b.second : is_nan;
  };
  if (keep < n) std::nth_element(pairs.begin(), pairs.begin() + keep, pairs.end(), is_ahead);
  std::sort(pairs.begin(), pairs.begin() + keep, is_ahead);
  for (int64_t j = 0; j < keep; ++j) {
    best[j] = pairs[static_cast<size_t>(j)].first;
    where[j] = pairs[static_cast<size_t>(j)].second;
  }
}

template <class C>
void product_rows(const Tensor& first_NA, const Tensor& second_NB, int64_t k, ProductTopK& out) {
  const int64_t A = first_NA.size(1), B = second_NB.size(1), wanted = k < A * B ? k + 1 : k;
  const int64_t keep_a = std::min(wanted, A), keep_b = std::min(wanted, B);
  std::vector<std::pair<int64_t, int64_t>> candidates;
  for (int64_t i = 0; i < keep_a; ++i)
    for (int64_t j = 0; j < std::min(keep_b, wanted / (i + 1)); ++j) candidates.emplace_back(i, j);
  const auto n_candidates = static_cast<int64_t>(candidates.size());
  const C *first = data<C>(first_NA), *second = data<C>(second_NB);
  auto* cell = mutable_data<int64_t>(out.cell_NK);
  C *score = mutable_data<C>(out.score_NK), *runner_up = mutable_data<C>(out.runner_up_N);
  at::parallel_for(0, first_NA.size(0), 1 + 16384 / (A + B + n_candidates), [&](int64_t begin, int64_t end) {
    const Scratch<C> best_a(keep_a), best_b(keep_b), sum(n_candidates), best(wanted);
    const Scratch<int64_t> where_a(keep_a), where_b(keep_b), where(wanted);
    std::vector<std::pair<C, int32_t>> pairs;
    for (int64_t n = begin; n < end; ++n) {
      top_of(first + n * A, A, keep_a, best_a.get(), where_a.get(), pairs);
      top_of(second + n * B, B, keep_b, best_b.get(), where_b.get(), pairs);
      for (int64_t c = 0; c < n_candidates; ++c) {
        const auto [i, j] = candidates[static_cast<size_t>(c)];
        sum.get()[c] = best_a.get()[i] + best_b.get()[j];
      }
      top_of(sum.get(), n_candidates, wanted, best.get(), where.get(), pairs);
      for (int64_t c = 0; c < k; ++c) {
        const auto [i, j] = candidates[static_cast<size_t>(where.get()[c])];
        cell[n * k + c] = where_a.get()[i] * B + where_b.get()[j];
        score[n * k + c] = best.get()[c];
      }
      runner_up[n] = wanted > k ? best.get()[k] : -std::numeric_limits<C>::infinity();
    }
  });
}

}  // namespace

ProductTopK product_top_k(const Tensor& first_NA, const Tensor& second_NB, int64_t k) {
  check_product(first_NA, second_NB, k);
  const auto type = first_NA.scalar_type();
  if (!first_NA.is_cpu() || (type != at::kFloat && type != at::kDouble))
    return plain::product_top_k(first_NA, second_NB, k);
  const auto first = first_NA.detach().contiguous(), second = second_NB.detach().contiguous();
  const auto N = first.size(0);
  ProductTopK out{fresh({N, k}, at::kLong), fresh({N, k}, first.options()), fresh({N}, first.options())};
  type == at::kFloat ? product_rows<float>(first, second, k, out) : product_rows<double>(first, second, k, out);
  return out;
}

namespace plain {

ProductTopK product_top_k(const Tensor& first_NA, const Tensor& second_NB, int64_t k) {
  check_product(first_NA, second_NB, k);
  const auto sum_NAB = first_NA.detach().unsqueeze(2) + second_NB.detach().unsqueeze(1);
  const auto top = plain::top_k(sum_NAB.reshape({first_NA.size(0), first_NA.size(1) * second_NB.size(1)}), k);
  return {top.expert_NK, top.score_NK, top.runner_up_N};
}

}  // namespace plain
}  // namespace collegium::kernels
