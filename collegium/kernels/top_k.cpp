#include "collegium/kernels/top_k.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <limits>
#include <vector>

#include "collegium/base/error.h"

namespace collegium::kernels {
namespace {

void check_top_k(const Tensor& score_NE, int64_t k) {
  require(score_NE.dim() == 2 && at::isFloatingType(score_NE.scalar_type()),
          "top_k: scores must be floating point [N, E], got ", score_NE.scalar_type(), " ", score_NE.sizes());
  require(k >= 1 && k <= score_NE.size(1), "top_k: k must be in [1, ", score_NE.size(1),
          "], the number of experts, got ", k);
}

template <class T>
struct Ranked {
  T score;
  int64_t expert;
};

// NaN first, then descending.
template <class T>
bool ranks_before(T a, T b) {
  return a > b || (a != a && b == b);
}

// Keeps the k + 1 best seen so far, in order. Ids come in ascending order and only a strictly better score moves
// ahead, so equal scores stay in the order of their ids.
template <class T>
void top_k_rows(const Tensor& score_NE, int64_t k, TopK& out) {
  const int64_t n_tokens = score_NE.size(0), n_experts = score_NE.size(1);
  const auto* score = score_NE.const_data_ptr<T>();
  auto* expert_out = out.expert_NK.mutable_data_ptr<int64_t>();
  auto* score_out = out.score_NK.mutable_data_ptr<T>();
  auto* runner_up_out = out.runner_up_N.mutable_data_ptr<T>();
  const int64_t keep = k < n_experts ? k + 1 : k;
  at::parallel_for(0, n_tokens, 1 + 16384 / n_experts, [&](int64_t begin, int64_t end) {
    std::vector<Ranked<T>> best(static_cast<size_t>(keep));
    for (int64_t n = begin; n < end; ++n) {
      const T* row = score + n * n_experts;
      Ranked<T>* const top = best.data();
      int64_t kept = 0;
      for (int64_t e = 0; e < n_experts; ++e) {
        if (kept == keep && !ranks_before(row[e], top[keep - 1].score)) continue;
        int64_t at = kept < keep ? kept++ : keep - 1;
        for (; at > 0 && ranks_before(row[e], top[at - 1].score); --at) top[at] = top[at - 1];
        top[at] = {row[e], e};
      }
      for (int64_t j = 0; j < k; ++j) {
        expert_out[n * k + j] = top[j].expert;
        score_out[n * k + j] = top[j].score;
      }
      runner_up_out[n] = keep > k ? top[k].score : -std::numeric_limits<T>::infinity();
    }
  });
}

}  // namespace

TopK top_k(const Tensor& score_NE, int64_t k) {
  check_top_k(score_NE, k);
  const auto type = score_NE.scalar_type();
  if (!score_NE.is_cpu() || (type != at::kFloat && type != at::kDouble)) return plain::top_k(score_NE, k);
  const auto scores = score_NE.detach().contiguous();
  const int64_t n_tokens = scores.size(0);
  TopK out{at::empty({n_tokens, k}, at::kLong), at::empty({n_tokens, k}, scores.options()),
           at::empty({n_tokens}, scores.options())};
  if (type == at::kFloat)
    top_k_rows<float>(scores, k, out);
  else
    top_k_rows<double>(scores, k, out);
  return out;
}

namespace plain {

TopK top_k(const Tensor& score_NE, int64_t k) {
  check_top_k(score_NE, k);
  const auto [sorted_NE, expert_NE] = at::sort(score_NE.detach(), /*stable=*/true, /*dim=*/1, /*descending=*/true);
  const auto runner_up_N = k < score_NE.size(1) ? sorted_NE.select(1, k).contiguous()
                                                : at::full({score_NE.size(0)}, -std::numeric_limits<double>::infinity(),
                                                           sorted_NE.options());
  return {expert_NE.slice(1, 0, k).contiguous(), sorted_NE.slice(1, 0, k).contiguous(), runner_up_N};
}

}  // namespace plain
}  // namespace collegium::kernels
