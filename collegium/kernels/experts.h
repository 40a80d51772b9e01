// Expert feed-forward networks over grouped assignments: each token's rows go through their expert's two matrices,
// are weighted by their gate and summed back into the token.
//
// Legend: N tokens, D model width, E experts, I expert hidden width, H = 2 I for gated experts, R assignments
// sorted by expert (rows offset[e] to offset[e + 1] belong to expert e; see group.h).
//
// Common to all: on the CPU float, double and bfloat16 (sums in float) run hand-written loops; other types run the
// plain version, other devices that or torch's grouped product (grouped_mm.h). From the loops, results do not depend,
// to the bit, on the number of threads, nor a token's result and its gradients (of x, of gates) on the tokens beside
// it. Everything is differentiable once; asking for a second derivative throws a usage Error (use plain:: for that).
// Wrong shapes, types, offsets or token ids throw a usage Error. token_R: int64 in [0, N). offset_E1: int64 [E + 1] on
// the CPU, from 0 to R, never falling.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>

namespace collegium::kernels {

using at::Tensor;

/// [R, H]: y = x weight_e^T for the rows of each expert e. weight_EHD's gradient is written once, and is zero for
/// experts without rows.
Tensor grouped_linear(const Tensor& x_RD, const Tensor& weight_EHD, const Tensor& offset_E1);

/// [N, H]: y = x weight^T, the same loops for one dense projection: a row does not depend on the rows beside it.
Tensor linear(const Tensor& x_ND, const Tensor& weight_HD);

/// [R, I]: silu(first half) * second half of each row, the layout of transformers' gate_up_proj.
Tensor swiglu(const Tensor& h_RH);

/// [R, D]: row r is token token_R[r]'s row of x_ND.
Tensor gather_rows(const Tensor& x_ND, const Tensor& token_R);

/// [n_tokens, D]: each token's sum of gate * y over its rows, in ascending row order; zero for a token without rows.
/// gate_R: y's type or, for bfloat16 y, float; its gradient is summed in float or double.
Tensor combine(const Tensor& y_RD, const Tensor& gate_R, const Tensor& token_R, int64_t n_tokens);

/// [N, D]: SwiGLU experts, fused: combine(swiglu(x W1_e^T) W2_e^T). Keeps only the pre-activations [R, H] for the
/// backward pass, nothing when no gradient is wanted, and skips gradients that are not wanted.
/// gate_up_EHD holds W1_e (gate rows, then up rows), down_EDI holds W2_e.
Tensor swiglu_experts(const Tensor& x_ND, const Tensor& gate_R, const Tensor& token_R, const Tensor& offset_E1,
                      const Tensor& gate_up_EHD, const Tensor& down_EDI);

/// [N, D]: the same with the exact (erf) GELU between up_EID and down_EDI.
Tensor gelu_experts(const Tensor& x_ND, const Tensor& gate_R, const Tensor& token_R, const Tensor& offset_E1,
                    const Tensor& up_EID, const Tensor& down_EDI);

/// The same functions as loops over the experts with ordinary torch operations and their autograd.
namespace plain {
Tensor grouped_linear(const Tensor& x_RD, const Tensor& weight_EHD, const Tensor& offset_E1);
Tensor swiglu(const Tensor& h_RH);
Tensor gather_rows(const Tensor& x_ND, const Tensor& token_R);
Tensor combine(const Tensor& y_RD, const Tensor& gate_R, const Tensor& token_R, int64_t n_tokens);
Tensor swiglu_experts(const Tensor& x_ND, const Tensor& gate_R, const Tensor& token_R, const Tensor& offset_E1,
                      const Tensor& gate_up_EHD, const Tensor& down_EDI);
Tensor gelu_experts(const Tensor& x_ND, const Tensor& gate_R, const Tensor& token_R, const Tensor& offset_E1,
                    const Tensor& up_EID, const Tensor& down_EDI);
}  // namespace plain

}  // namespace collegium::kernels
