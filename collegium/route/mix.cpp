#include "collegium/route/mix.h"

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "collegium/kernels/flops.h"

namespace collegium::route {
namespace {

constexpr int64_t kGrain = 16;

// Plain loops in a fixed order: s ascends, so what comes after a token cannot change its sums.
struct MixEarlier : torch::autograd::Function<MixEarlier> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& between_TT, const Tensor& score_TE,
                        const Tensor& real_T, bool is_logit) {
    const auto T = score_TE.size(0), E = score_TE.size(1);
    auto weight_TT = at::zeros({T, T}, score_TE.options()), out_TE = at::zeros({T, E}, score_TE.options());
    auto sum_T = at::ones({T}, score_TE.options());
    kernels::count_flops(static_cast<double>(T) * static_cast<double>(score_TE.numel()));
    const auto* real = real_T.const_data_ptr<bool>();
    AT_DISPATCH_FLOATING_TYPES(score_TE.scalar_type(), "mix_earlier", [&] {
      const auto *between = between_TT.const_data_ptr<scalar_t>(), *score = score_TE.const_data_ptr<scalar_t>();
      auto *weight = weight_TT.mutable_data_ptr<scalar_t>(), *out = out_TE.mutable_data_ptr<scalar_t>(),
           *sums = sum_T.mutable_data_ptr<scalar_t>();
      at::parallel_for(0, T, kGrain, [&](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t) {
          const auto* a = between + t * T;
          auto* w = weight + t * T;
          scalar_t most = -std::numeric_limits<scalar_t>::infinity(), sum = 0;
          for (int64_t s = 0; s <= t; ++s)
            if (real[s] && a[s] > most) most = a[s];
          for (int64_t s = 0; s <= t; ++s)
            if (real[s]) sum += w[s] = is_logit ? std::exp(a[s] - most) : a[s];
          if (sum > 0) {
            for (int64_t s = 0; s <= t; ++s) w[s] /= sum;
          } else {
            w[t] = 1;
          }
          sums[t] = sum;
          // As the token's own scores and what others have more or less: among equal scores nothing is rounded.
          const auto* own = score + t * E;
          auto* row = out + t * E;
          for (int64_t s = 0; s < t; ++s) {
            if (w[s] == 0) continue;
            const auto* from = score + s * E;
            for (int64_t e = 0; e < E; ++e) row[e] += w[s] * (from[e] - own[e]);
          }
          for (int64_t e = 0; e < E; ++e) row[e] = std::max(own[e] + row[e], scalar_t{0});
        }
      });
    });
    context->save_for_backward({score_TE, weight_TT, sum_T, real_T});
    context->saved_data["is_logit"] = is_logit;
    return out_TE;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& grads) {
    const auto saved = context->get_saved_variables();
    const auto &score_TE = saved[0], &weight_TT = saved[1], &sum_T = saved[2];
    const bool is_logit = context->saved_data["is_logit"].toBool();
    const auto grad_TE = grads[0].contiguous();
    const auto grad_score_TE = at::mm(weight_TT.t(), grad_TE);
    Tensor grad_between_TT;
    if (context->needs_input_grad(0)) {
      // A normalised weight moves with its own number and, through the sum, with all of its row.
      const auto grad_weight_TT = at::mm(grad_TE, score_TE.t());
      const auto moved_TT = grad_weight_TT - (weight_TT * grad_weight_TT).sum(-1, true);
      const auto has_T1 = sum_T.gt(0).unsqueeze(1);
      const auto open_TT = has_T1.logical_and(saved[3].unsqueeze(0)).tril();
      const auto each_TT = is_logit ? weight_TT : at::where(has_T1, sum_T.unsqueeze(1).reciprocal(), 0);
      grad_between_TT = at::where(open_TT, each_TT * moved_TT, 0);
    }
    return {grad_between_TT, grad_score_TE, Tensor(), Tensor()};
  }
};

}  // namespace

Tensor mix_earlier(const Tensor& between_TT, const Tensor& score_TE, const Tensor& real_T, MixBy by) {
  const auto T = score_TE.size(0);
  require(between_TT.dim() == 2 && between_TT.size(0) == T && between_TT.size(1) == T,
          "mix_earlier: one number for each pair of ", T, " tokens was wanted, got ", between_TT.sizes());
  if (!score_TE.is_cpu()) return plain::mix_earlier(between_TT, score_TE, real_T, by);
  const auto all_T = real_T.defined() ? real_T.contiguous() : at::ones({T}, at::kBool);
  return MixEarlier::apply(between_TT.contiguous(), score_TE.contiguous(), all_T, by == MixBy::logit);
}

namespace plain {

Tensor mix_earlier(const Tensor& between_TT, const Tensor& score_TE, const Tensor& real_T, MixBy by) {
  const auto T = score_TE.size(0);
  auto open_TT = at::ones({T, T}, score_TE.options().dtype(at::kBool).requires_grad(false)).tril();
  if (real_T.defined()) open_TT = open_TT.logical_and(real_T.unsqueeze(0));
  const auto none_T1 = open_TT.any(-1, true).logical_not();
  const auto self_TT = at::eye(T, score_TE.options().requires_grad(false));
  Tensor weight_TT;
  if (by == MixBy::logit) {
    const auto closed_TT = open_TT.logical_or(none_T1).logical_not();
    weight_TT = between_TT.masked_fill(closed_TT, -std::numeric_limits<float>::infinity()).softmax(-1);
    weight_TT = at::where(none_T1, self_TT, weight_TT);
  } else {
    weight_TT = between_TT.masked_fill(open_TT.logical_not(), 0);
    const auto sum_T1 = weight_TT.sum(-1, true);
    weight_TT = at::where(sum_T1.gt(0), weight_TT / at::where(sum_T1.gt(0), sum_T1, at::ones_like(sum_T1)), self_TT);
  }
  return at::mm(weight_TT, score_TE);
}

}  // namespace plain

std::vector<int64_t> sequence_offsets(const Context& context, int64_t n_tokens) {
  if (!context.sequence_N.defined()) return {0, n_tokens};
  const auto counts = at::bincount(context.sequence_N, {}, context.n_sequences).cpu();
  std::vector<int64_t> offsets = {0};
  for (int64_t g = 0; g < counts.size(0); ++g) offsets.push_back(offsets.back() + counts.const_data_ptr<int64_t>()[g]);
  return offsets;
}

}  // namespace collegium::route
