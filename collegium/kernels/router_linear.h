// A router's logits, the same bits for a token in whatever company it comes.
//
// Legend: N tokens, D model width, E experts.
#pragma once
#include <ATen/core/Tensor.h>

namespace collegium::kernels {

using at::Tensor;

/// x_ND weight_ED^T, [N, E]. On the CPU a token's logits do not depend, to the bit, on the other tokens in the batch
/// or on the number of threads: each is one sum over D in an order fixed by D. (A BLAS product promises neither,
/// and one bit can change which expert a token goes to.) Other devices use at::linear and its guarantees.
/// Types on the CPU: float, double, bfloat16 (summed in float); both arguments of one type. Differentiable, twice
/// too. Throws a usage Error when the shapes or types do not fit.
Tensor router_linear(const Tensor& x_ND, const Tensor& weight_ED);

enum class ScoreFunction { softmax, sigmoid };

struct RouterScores {
  Tensor logit_NE, score_NE;
};

/// The logits and their score function, bit for bit as router_linear and softmax or sigmoid give them. Without
/// gradients both come from one pass over blocks of tokens that stay in the cache.
RouterScores router_scores(const Tensor& x_ND, const Tensor& weight_ED, ScoreFunction function);

namespace plain {
/// at::linear.
Tensor router_linear(const Tensor& x_ND, const Tensor& weight_ED);
/// One function after the other.
RouterScores router_scores(const Tensor& x_ND, const Tensor& weight_ED, ScoreFunction function);
}  // namespace plain

}  // namespace collegium::kernels
