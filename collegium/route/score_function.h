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

/// Normal noise on the logits of `scores`, for measures of robustness: `noise` times the standard deviation of the
/// token's own logits over the experts that are open to it, so that routers with large and small logits are disturbed
/// alike. The scores are those of the disturbed logits; where a scorer's score is not the plain function of its logits
/// (or it has none), the score moves as that function's would. A closed expert stays closed, and scores of kind `none`
/// stay as they are.
void disturb(Scores& scores, double noise, const Random& random);

}  // namespace collegium::route
