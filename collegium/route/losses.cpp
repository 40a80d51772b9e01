#include "collegium/route/losses.h"

#include <ATen/ATen.h>

#include <array>

#include "collegium/kernels/column_sums.h"
#include "collegium/kernels/softmax.h"

namespace collegium::route {
namespace {

Tensor group_of_tokens(const Context& context, const Tensor& like, int64_t n_tokens, bool by_sequence) {
  if (by_sequence && context.sequence_N.defined()) return context.sequence_N;
  return at::zeros({n_tokens}, like.options().dtype(at::kLong));
}

// Assignments asked of each expert by each group, [G, E].
Tensor asked_counts(const Decision& d, const Tensor& group_N, int64_t n_groups, bool first_choice_only,
                    const at::TensorOptions& options) {
  const auto E = d.n_experts();
  if (n_groups == 1 && !first_choice_only) return d.asked_E().to(options).unsqueeze(0);
  auto counts_X = at::zeros({n_groups * E}, options);
  const auto add = [&](const Tensor& token, const Tensor& expert, const Tensor& rank) {
    if (token.size(0) == 0) return;
    auto ones = first_choice_only ? rank.eq(0).to(options) : at::ones(token.sizes(), options);
    if (d.n_filled() > 0) ones = ones * expert.ge(0).to(options);
    counts_X.index_add_(0, group_N.index_select(0, token) * E + expert.clamp_min(0), ones);
  };
  add(d.token_R(), d.wanted_R(), d.rank_R());
  add(d.dropped().token_Q, d.dropped().expert_Q, d.dropped().rank_Q);
  return counts_X.view({n_groups, E});
}

// The columns of the experts that are candidates at all: loads are even over those.
Tensor open_part(const Tensor& t_NE, const Scores& scores) {
  return scores.n_open > 0 ? t_NE.slice(1, 0, scores.n_open).contiguous() : t_NE;
}

Tensor distribution(const Scores& scores) {
  const auto score_NE = open_part(scores.score_NE, scores);
  return scores.kind == ScoreKind::softmax ? score_NE : probabilities(score_NE);
}

}  // namespace

Tensor probabilities(const Tensor& score_NE) {
  const auto sum_N1 = score_NE.sum(1, true);
  return score_NE / at::where(sum_N1.gt(0), sum_N1, at::ones_like(sum_N1));
}

std::span<const std::string_view> enum_names(LossConvention) {
  static constexpr std::array<std::string_view, 3> names = {"switch", "hf_pooled", "gshard"};
  return names;
}

std::span<const std::string_view> enum_names(LossScope) {
  static constexpr std::array<std::string_view, 2> names = {"batch", "sequence"};
  return names;
}

Tensor balance_loss(const Scores& scores, const Decision& decision, const Context& context, LossConvention convention,
                    LossScope scope, int64_t n_null) {
  const auto score_NE = distribution(scores);
  const auto options = score_NE.options().requires_grad(false);
  const auto N = score_NE.size(0), E = score_NE.size(1);
  const bool by_sequence = scope == LossScope::sequence;
  const auto group_N = group_of_tokens(context, score_NE, N, by_sequence);
  const auto G = by_sequence ? context.n_sequences : 1;

  Tensor real_G, sum_GE;
  if (G == 1) {
    real_G = at::full({1}, n_real(context, N), options);
    sum_GE =
        kernels::column_sums(score_NE, context.mask_N.defined() ? context.mask_N.to(options) : Tensor()).unsqueeze(0);
  } else {
    const auto real_N = real_tokens(context, N, options);
    real_G = at::zeros({G}, options).index_add_(0, group_N, real_N);
    sum_GE = at::zeros({G, E}, options).index_add(0, group_N, score_NE * real_N.unsqueeze(1));
  }
  const auto safe_G1 = real_G.clamp_min(1).unsqueeze(1);
  const auto mean_GE = sum_GE / safe_G1;

  const auto counts_GE =
      open_part(asked_counts(decision, group_N, G, convention == LossConvention::gshard, options), scores);
  if (n_null > 0) {
    auto null_GE = counts_GE.slice(1, E - n_null);
    null_GE.copy_(null_GE.mean(1, true).expand_as(null_GE).clone());
  }
  const auto dE = static_cast<double>(E);
  Tensor loss_G;
  if (convention == LossConvention::switch_)
    loss_G = dE * (counts_GE / counts_GE.sum(1, true).clamp_min(1) * mean_GE).sum(1);
  else if (convention == LossConvention::hf_pooled)
    loss_G = dE * (counts_GE / safe_G1 * mean_GE).sum(1);
  else
    loss_G = (counts_GE / safe_G1 * mean_GE).sum(1) / dE;
  // Groups without a real token say nothing.
  const auto has_tokens_G = real_G.gt(0).to(score_NE.scalar_type());
  return (loss_G * has_tokens_G).sum() / has_tokens_G.sum().clamp_min(1);
}

Tensor hf_pooled_loss(const std::vector<std::pair<const Scores*, const Decision*>>& layers, const Context& context) {
  require(!layers.empty(), "hf_pooled_loss: needs at least one layer");
  Tensor counts_E, sum_E;
  double rows = 0;
  for (const auto& [scores, decision] : layers) {
    const auto score_NE = distribution(*scores);
    const auto N = score_NE.size(0);
    const auto options = score_NE.options().requires_grad(false);
    const auto group_N = group_of_tokens(context, score_NE, N, false);
    const auto layer_counts_E = open_part(asked_counts(*decision, group_N, 1, false, options), *scores).squeeze(0);
    const auto masked_NE = only_real(score_NE, context);
    require(!counts_E.defined() || counts_E.size(0) == layer_counts_E.size(0),
            "hf_pooled_loss: layers with different numbers of candidates cannot be pooled");
    counts_E = counts_E.defined() ? counts_E + layer_counts_E : layer_counts_E;
    sum_E = sum_E.defined() ? sum_E + masked_NE.sum(0) : masked_NE.sum(0);
    rows += static_cast<double>(n_real(context, N));
  }
  if (rows == 0) return sum_E.sum() * 0;
  return static_cast<double>(sum_E.size(0)) * (counts_E / rows * (sum_E / rows)).sum();
}

double conversion_factor(LossConvention from, LossConvention to, int64_t n_experts, int64_t k) {
  if (from == to) return 1;
  require(k == 1 || (from != LossConvention::gshard && to != LossConvention::gshard),
          "conversion_factor: gshard counts first choices only, so it converts exactly for k = 1, got k = ", k);
  const auto E = static_cast<double>(n_experts);
  const auto minimum = [&](LossConvention c) {
    return c == LossConvention::switch_ ? 1.0 : c == LossConvention::hf_pooled ? static_cast<double>(k) : 1 / (E * E);
  };
  return minimum(to) / minimum(from);
}

Tensor z_loss(const Scores& scores, const Context& context) {
  const auto squared_N = kernels::log_sum_exp(open_part(scores.logit_NE, scores)).square();
  if (!context.mask_N.defined()) return squared_N.size(0) ? squared_N.mean() : squared_N.sum();
  const auto real_N = context.mask_N.to(squared_N.scalar_type());
  return (squared_N * real_N).sum() / real_N.sum().clamp_min(1);
}

}  // namespace collegium::route
