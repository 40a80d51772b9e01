// The functions from logits to scores, the same bits for a token in whatever company it comes.
//
// N tokens, E experts.
#pragma once
#include "collegium/kernels/router_linear.h"
#include "collegium/route/stages.h"

namespace collegium::route {

/// Softmax over the experts, or sigmoid or ReLU of each logit. [N, E]
Tensor score_function(const Tensor& logit_NE, ScoreKind kind);

/// Logits x_ND weight_ED^T and their score function.
kernels::RouterScores linear_scores(const Tensor& x_ND, const Tensor& weight_ED, ScoreKind kind);

}  // namespace collegium::route
