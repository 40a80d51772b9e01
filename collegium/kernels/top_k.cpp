#include "collegium/kernels/top_k.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <limits>

#include "collegium/base/error.h"
#include "collegium/kernels/work.h"

namespace collegium::kernels {
namespace {

void check_top_k(const Tensor& score_NE, int64_t k, const Tensor& bias_E) {
  require(score_NE.dim() == 2 && at::isFloatingType(score_NE.scalar_type()),
          "top_k: scores must be floating point [N, E], got ", score_NE.scalar_type(), " ", score_NE.sizes());
  require(k >= 1 && k <= score_NE.size(1), "top_k: k must be in [1, ", score_NE.size(1),
          "], the number of experts, got ", k);
  require(!bias_E.defined() || (bias_E.dim() == 1 && bias_E.size(0) == score_NE.size(1)), "top_k: a bias of [",
          score_NE.size(1), "] wanted, got ", bias_E.defined() ? bias_E.sizes() : at::IntArrayRef());
}

template <class C>
void top_k_rows(const Tensor& score_NE, int64_t k, const Tensor& bias_E, TopK& out) {
  const int64_t E = score_NE.size(1), keep = k < E ? k + 1 : k;
  const C *score = data<C>(score_NE), *bias = bias_E.defined() ? data<C>(bias_E) : nullptr;
  auto* expert_out = mutable_data<int64_t>(out.expert_NK);
  C *score_out = mutable_data<C>(out.score_NK), *runner_up_out = mutable_data<C>(out.runner_up_N);
  const auto& loop = score_loops<C>();
  at::parallel_for(0, score_NE.size(0), 1 + 16384 / E, [&](int64_t begin, int64_t end) {
    const Scratch<C> best(keep), compared(bias ? E : 0);
    const Scratch<int64_t> where(keep);
    for (int64_t n = begin; n < end; ++n) {
      const C* row = score + n * E;
      if (bias) {
        loop.add(row, bias, E, compared.get());
        row = compared.get();
      }
      loop.top(row, E, keep, best.get(), where.get());
      std::copy_n(where.get(), k, expert_out + n * k);
      std::copy_n(best.get(), k, score_out + n * k);
      runner_up_out[n] = keep > k ? best.get()[k] : -std::numeric_limits<C>::infinity();
    }
  });
}

}  // namespace

TopK top_k(const Tensor& score_NE, int64_t k, const Tensor& bias_E) {
  check_top_k(score_NE, k, bias_E);
  const auto type = score_NE.scalar_type();
  if (!score_NE.is_cpu() || (type != at::kFloat && type != at::kDouble)) return plain::top_k(score_NE, k, bias_E);
  const auto scores = score_NE.detach().contiguous();
  const int64_t n_tokens = scores.size(0);
  TopK out{fresh({n_tokens, k}, at::kLong), fresh({n_tokens, k}, scores.options()),
           fresh({n_tokens}, scores.options())};
  const auto bias = bias_E.defined() ? bias_E.detach().to(scores).contiguous() : Tensor();
  type == at::kFloat ? top_k_rows<float>(scores, k, bias, out) : top_k_rows<double>(scores, k, bias, out);
  return out;
}

namespace plain {

TopK top_k(const Tensor& score_NE, int64_t k, const Tensor& bias_E) {
  check_top_k(score_NE, k, bias_E);
  auto compared_NE = score_NE.detach();
  if (bias_E.defined()) compared_NE = compared_NE + bias_E.detach().to(compared_NE);
  const auto [sorted_NE, expert_NE] = at::sort(compared_NE, /*stable=*/true, /*dim=*/1, /*descending=*/true);
  const auto runner_up_N = k < score_NE.size(1) ? sorted_NE.select(1, k).contiguous()
                                                : at::full({score_NE.size(0)}, -std::numeric_limits<double>::infinity(),
                                                           sorted_NE.options());
  return {expert_NE.slice(1, 0, k).contiguous(), sorted_NE.slice(1, 0, k).contiguous(), runner_up_N};
}

}  // namespace plain
}  // namespace collegium::kernels
