// Load-balancing losses under their names, with exact conversions. Counts come from the Decision alone.
//
// N tokens, E experts, T real tokens, K assignments asked per token; f and P are per expert.
#pragma once
#include "collegium/route/stages.h"

namespace collegium::route {

/// The three conventions in use. With a_e assignments asked of expert e and P_e its mean probability:
///   switch      E * sum_e (a_e / sum a) P_e          minimum 1 at uniform load (Fedus 2021, eq. 4 to 6)
///   hf_pooled   E * sum_e (a_e / T) P_e              minimum K (transformers; pooled over layers when several)
///   gshard      (1/E) * sum_e (c_e / T) P_e          minimum 1/E^2; c_e counts first choices (Lepikhin 2020, alg. 1)
enum class LossConvention { switch_, hf_pooled, gshard };
std::span<const std::string_view> enum_names(LossConvention);

/// Over which tokens the loss is formed: all of the batch, or each sequence by itself and then averaged.
enum class LossScope { batch, sequence };
std::span<const std::string_view> enum_names(LossScope);

/// Scores as a distribution over the experts: divided by their sum where they are not one already (sigmoid, ReLU), as
/// in DeepSeek-V3 (eq. 18). A token without a positive score has zeros.
Tensor probabilities(const Tensor& score_NE);

/// Scalar with the gradient of the scores; P_e is the mean of each token's scores divided by their sum (softmax scores
/// sum to one already). Masked tokens count neither in a_e nor in P_e; dropped assignments do
/// count (they were asked for; with kept ones only, the loss of a full expert would stop rising).
/// Zero real tokens give 0. The last `n_null` experts are all charged their mean load (AdaMoE, P087).
Tensor balance_loss(const Scores& scores, const Decision& decision, const Context& context, LossConvention convention,
                    LossScope scope = LossScope::batch, int64_t n_null = 0);

/// transformers' loss over several layers: counts and probabilities pooled first, so that imbalances of different
/// layers may cancel. hf_pooled of one layer is `balance_loss`.
Tensor hf_pooled_loss(const std::vector<std::pair<const Scores*, const Decision*>>& layers, const Context& context);

/// The factor that turns a value under `from` into the value under `to`, for exactly K assignments per real token.
/// gshard counts first choices only, so it converts exactly only for K = 1; otherwise a usage Error.
double conversion_factor(LossConvention from, LossConvention to, int64_t n_experts, int64_t k);

/// Mean over real tokens of (logsumexp of the logits)^2: keeps logits small (Zoph 2022, ST-MoE, eq. 5).
Tensor z_loss(const Scores& scores, const Context& context);

}  // namespace collegium::route
