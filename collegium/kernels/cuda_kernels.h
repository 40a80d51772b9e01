// Our own kernels for what stands between the products of experts on CUDA devices: sorting choices by expert, the
// activation with its backward pass, and sums of rows. They are compiled for the device when it first needs them, by
// the compiler that a CUDA build of torch brings along (NVRTC), so building Collegium needs no CUDA.
//
// Legend: A rows sorted by expert, E experts, K choices a token, I expert hidden width, H pre-activations of a row, D
// columns.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

#include "collegium/kernels/experts_passes.h"

namespace collegium::kernels {

using at::Tensor;

/// Whether they take rows of `width` numbers like `t`'s: on a CUDA device that they could be compiled for, float,
/// bfloat16 or half, 16 bytes or a multiple of them to a row. Compiles them, once a device and type.
bool has_cuda_kernels(const Tensor& t, int64_t width);

/// One line for people: what a CUDA device would run, and why. `device` is a number as in "cuda:N".
std::string cuda_kernels_report(int64_t device);

struct SortedChoices {
  Tensor token_A;  ///< int64, the token of each row; the number of tokens for rows that do no work, which come last
  Tensor gate_A;   ///< float
  Tensor place_A;  ///< int64, the row of each choice; -1 where it does no work
  Tensor end_E;    ///< int32, where each expert's rows end
};

/// Choices by expert, those of an expert in their order. expert_A: int64, ids outside [0, n_experts) do no work;
/// gate_A: floating point; K choices a token, token after token. has_cuda_kernels() must hold for like_ND, which tells
/// the device.
SortedChoices cuda_sort_choices(const Tensor& expert_A, const Tensor& gate_A, int64_t n_experts, int64_t k,
                                const Tensor& like_ND);

/// [A, I], in the type of h_AH.
Tensor cuda_activate(ExpertKind kind, const Tensor& h_AH);

struct CudaBackward {
  Tensor grad_h_AH;    ///< gate * q * da/dh, in the type of h
  Tensor gated_AI;     ///< gate * a, in the type of h
  Tensor grad_gate_A;  ///< sum of q * a, float
};

/// q_AI: the gradient of an answer before its gate by a = act(h). Only what is wanted is computed and defined.
CudaBackward cuda_activate_backward(ExpertKind kind, const Tensor& h_AH, const Tensor& q_AI, const Tensor& gate_A,
                                    bool wants_h, bool wants_gated, bool wants_gate);

/// [n_bags, D], in the type of the values: sums of weight * values_VD[index], in float and in order. Bag b has the
/// entries from first_B[b] up to the next bag, or as many as any other where first_B is undefined. index: int64, -1
/// counts for nothing; weight: floating point, undefined = 1. They repeat to the bit.
Tensor cuda_bag_sums(const Tensor& values_VD, const Tensor& index_R, const Tensor& first_B, int64_t n_bags,
                     const Tensor& weight_R);

}  // namespace collegium::kernels
