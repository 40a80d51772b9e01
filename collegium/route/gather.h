// From scores to assignments and back.
#pragma once
#include "collegium/route/decision.h"

namespace collegium::route {

using at::Tensor;

/// score_NE at (token_R, expert_R), with gradient. [R]
Tensor gather_scores(const Tensor& score_NE, const Tensor& token_R, const Tensor& expert_R);

/// Sum of score_R over each token's assignments, with gradient. [N]
Tensor token_sums(const Tensor& score_R, const Tensor& token_R, int64_t n_tokens);

/// score_R / (sum_N at its token + epsilon), with gradient. [R]
Tensor shares_of(const Tensor& score_R, const Tensor& sum_N, const Tensor& token_R, double epsilon);

/// What tokens ask for, token by token: row n of each holds token n's candidates, best first, and asks_NK (bool,
/// undefined = all) says which of them it asks for. Masked tokens (mask_N, undefined = none) ask for nothing.
Assignments token_choices(const Tensor& expert_NK, const Tensor& score_NK, const Tensor& margin_NK,
                          const Tensor& mask_N, const Tensor& asks_NK = {});

}  // namespace collegium::route
