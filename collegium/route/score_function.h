// The functions from logits to scores, the same bits for a token in whatever company it comes.
//
// N tokens, E experts.
#pragma once
#include "collegium/route/stages.h"

namespace collegium::route {

/// The logistic function. torch's own rounds the last elements of a tensor, which do not fill a vector register, in
/// another way than the others, so a token's score would depend on how many come after it; a softmax over the pair
/// (z, 0) is one small row an element.
Tensor steady_sigmoid(const Tensor& z);

/// Softmax over the experts, or sigmoid or ReLU of each logit. [N, E]
Tensor score_function(const Tensor& logit_NE, ScoreKind kind);

}  // namespace collegium::route
