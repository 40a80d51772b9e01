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

namespace plain {
/// at::linear.
Tensor router_linear(const Tensor& x_ND, const Tensor& weight_ED);
}  // namespace plain

}  // namespace collegium::kernels
