// Experts of single vectors: each assignment is a pair of a token's row and one row of a weight. `pair_products` takes
// the inner product of every pair (a sampled dense-dense product), `pair_sums` adds up each token's weighted rows (a
// sparse-dense product). Pairs are walked expert by expert, so that a weight's row is read once for all of its tokens,
// and no [R, D] gather is made, in neither direction.
//
// Legend: N tokens, D width, E experts, R pairs sorted by expert (pairs offset[e] to offset[e + 1] belong to expert e).
//
// On the CPU float, double and bfloat16 (sums in float) run hand-written loops; other devices and types run the plain
// version. Results do not depend, to the bit, on the number of threads, a pair's product not on other pairs, and a
// token's sum not on other tokens. Differentiable once; asking for a second derivative throws a usage Error (use
// plain:: for that), as do wrong shapes, types, offsets or token ids. token_R: int64 in [0, N). offset_E1: int64 [E +
// 1] on the CPU, from 0 to R, never falling.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>

namespace collegium::kernels {

using at::Tensor;

/// [R]: <x[token], weight[expert]>, in the type of sums (float for bfloat16). x and weight of one type.
Tensor pair_products(const Tensor& x_ND, const Tensor& weight_ED, const Tensor& token_R, const Tensor& offset_E1);

/// [n_tokens, D]: each token's sum of factor * weight[expert], experts ascending; zero for a token without pairs.
/// factor_R: weight's type or, for bfloat16, float.
Tensor pair_sums(const Tensor& factor_R, const Tensor& weight_ED, const Tensor& token_R, const Tensor& offset_E1,
                 int64_t n_tokens);

namespace plain {
/// The same with gathered rows and ordinary torch operations: what a token-centric layer does.
Tensor pair_products(const Tensor& x_ND, const Tensor& weight_ED, const Tensor& token_R, const Tensor& offset_E1);
Tensor pair_sums(const Tensor& factor_R, const Tensor& weight_ED, const Tensor& token_R, const Tensor& offset_E1,
                 int64_t n_tokens);
}  // namespace plain

}  // namespace collegium::kernels
