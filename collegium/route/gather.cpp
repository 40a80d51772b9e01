#include "collegium/route/gather.h"

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include "collegium/base/error.h"
#include "collegium/kernels/block_pool.h"

namespace collegium::route {
namespace {

constexpr int64_t kRowGrain = 8192;  // rows worth waking a thread for

// Whether a plain loop may read `values` at `index`. With a gradient, or elsewhere, torch's operations do the same.
bool takes_loop(const Tensor& values, const Tensor& index) {
  const auto type = values.scalar_type();
  return values.is_cpu() && index.is_cpu() && index.is_contiguous() && (type == at::kFloat || type == at::kDouble) &&
         !(at::GradMode::is_enabled() && values.requires_grad());
}

}  // namespace

Tensor gather_scores(const Tensor& score_NE, const Tensor& token_R, const Tensor& expert_R) {
  const auto N = score_NE.size(0), E = score_NE.size(1), R = token_R.size(0);
  if (!takes_loop(score_NE, token_R) || !expert_R.is_cpu() || !expert_R.is_contiguous())
    return score_NE.reshape({-1}).index_select(0, token_R * E + expert_R);
  const auto from_NE = score_NE.contiguous();
  auto out_R = kernels::fresh({R}, score_NE.options());
  AT_DISPATCH_FLOATING_TYPES(score_NE.scalar_type(), "gather_scores", [&] {
    const auto* from = from_NE.const_data_ptr<scalar_t>();
    const auto *token = token_R.const_data_ptr<int64_t>(), *expert = expert_R.const_data_ptr<int64_t>();
    auto* out = out_R.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, R, kRowGrain, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        ensure(token[r] >= 0 && token[r] < N && expert[r] >= 0 && expert[r] < E,
               "an assignment is outside of the scores");
        out[r] = from[token[r] * E + expert[r]];
      }
    });
  });
  return out_R;
}

Tensor token_sums(const Tensor& score_R, const Tensor& token_R, int64_t n_tokens) {
  auto sum_N = at::zeros({n_tokens}, score_R.options().requires_grad(false));
  if (!takes_loop(score_R, token_R)) return sum_N.index_add(0, token_R, score_R);
  const auto from_R = score_R.contiguous();
  AT_DISPATCH_FLOATING_TYPES(score_R.scalar_type(), "token_sums", [&] {
    const auto* from = from_R.const_data_ptr<scalar_t>();
    const auto* token = token_R.const_data_ptr<int64_t>();
    auto* sum = sum_N.mutable_data_ptr<scalar_t>();
    for (int64_t r = 0; r < from_R.size(0); ++r) {
      ensure(token[r] >= 0 && token[r] < n_tokens, "an assignment's token is outside of the batch");
      sum[token[r]] += from[r];
    }
  });
  return sum_N;
}

Tensor shares_of(const Tensor& score_R, const Tensor& sum_N, const Tensor& token_R, double epsilon) {
  if (!takes_loop(score_R, token_R) || !takes_loop(sum_N, token_R))
    return score_R / (sum_N.index_select(0, token_R) + epsilon);
  const auto score = score_R.contiguous(), sums = sum_N.contiguous();
  auto out_R = kernels::fresh({score.size(0)}, score.options());
  AT_DISPATCH_FLOATING_TYPES(score_R.scalar_type(), "shares_of", [&] {
    const auto *from = score.const_data_ptr<scalar_t>(), *sum = sums.const_data_ptr<scalar_t>();
    const auto* token = token_R.const_data_ptr<int64_t>();
    auto* out = out_R.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, score.size(0), kRowGrain, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        ensure(token[r] >= 0 && token[r] < sums.size(0), "an assignment's token is outside of the batch");
        out[r] = from[r] / (sum[token[r]] + static_cast<scalar_t>(epsilon));
      }
    });
  });
  return out_R;
}

Assignments token_choices(const Tensor& expert_NK, const Tensor& score_NK, const Tensor& margin_NK,
                          const Tensor& mask_N, const Tensor& asks_NK) {
  const auto N = expert_NK.size(0), K = expert_NK.size(1);
  const auto ints = expert_NK.options();
  Tensor token_NK, rank_NK;
  if (expert_NK.is_cpu()) {
    token_NK = kernels::fresh({N, K}, ints), rank_NK = kernels::fresh({N, K}, ints);
    auto *token = token_NK.mutable_data_ptr<int64_t>(), *rank = rank_NK.mutable_data_ptr<int64_t>();
    at::parallel_for(0, N, 1 + kRowGrain / (1 + K), [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n)
        for (int64_t j = 0; j < K; ++j) token[n * K + j] = n, rank[n * K + j] = j;
    });
  } else {
    token_NK = at::arange(N, ints).unsqueeze(1).expand({N, K});
    rank_NK = at::arange(K, ints).unsqueeze(0).expand({N, K});
  }
  auto open_NK = asks_NK;
  if (mask_N.defined()) {
    const auto real_NK = mask_N.unsqueeze(1).expand({N, K});
    open_NK = open_NK.defined() ? open_NK.logical_and(real_NK) : real_NK;
  }
  const auto asked = open_NK.defined() ? open_NK.reshape({-1}).nonzero().flatten() : Tensor();
  const auto of = [&](const Tensor& t_NK) {
    const auto flat = t_NK.reshape({-1});
    return asked.defined() ? flat.index_select(0, asked) : flat;
  };
  return {of(token_NK), of(expert_NK), of(rank_NK), of(score_NK), of(margin_NK)};
}

}  // namespace collegium::route
