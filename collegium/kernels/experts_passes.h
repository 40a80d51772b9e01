// The fused experts of experts.h as separate passes, for callers with an autograd of their own (custom operators).
//
// Legend: as in experts.h; H pre-activations an assignment: 2 I for SwiGLU, I for GELU.
#pragma once
#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>

namespace collegium::kernels {

using at::Tensor;

enum class ExpertKind : int64_t { swiglu, gelu };

/// What the experts see; first_EHD and second_EDI as gate_up and down (swiglu) or up and down (gelu) in experts.h.
struct ExpertsCall {
  ExpertKind kind;
  Tensor x_ND, gate_R, token_R, offset_E1, first_EHD, second_EDI;
  /// Where it is known, and then gate_R is float: the row of each choice, N times as many, token after token, and the
  /// choices' gates. A row of -1 = the choice does no work.
  Tensor place_A = {}, gate_A = {};
};

struct ExpertsResult {
  Tensor out_ND;
  Tensor pre_RH;  ///< what experts_backward needs; undefined unless `keep`
};

struct ExpertsGradients {
  Tensor x_ND, gate_R, first_EHD, second_EDI;  ///< undefined where not wanted
};

/// A usage Error for wrong shapes or types of x and the weights.
void check_weights(const ExpertsCall& call);

/// Without autograd: in loops of ours or in torch's products, by type and device. A usage Error for wrong shapes,
/// types, offsets or token ids.
ExpertsResult experts_forward(const ExpertsCall& call, bool keep);

/// `wanted`: x, gate, first and second weights. pre_RH from experts_forward of the same call.
ExpertsGradients experts_backward(const ExpertsCall& call, const Tensor& pre_RH, const Tensor& grad_ND,
                                  const std::array<bool, 4>& wanted);

/// grouped_linear of experts.h in loops of ours: x for which has_loops() holds, sizes and types that fit.
Tensor grouped_linear_forward(const Tensor& x_RD, const Tensor& weight_EHD, const Tensor& offset_E1);

struct LinearGradients {
  Tensor x_RD, weight_EHD;  ///< undefined where not wanted
};
LinearGradients grouped_linear_backward(const Tensor& x_RD, const Tensor& weight_EHD, const Tensor& offset_E1,
                                        const Tensor& grad_RH, const std::array<bool, 2>& wanted);

}  // namespace collegium::kernels
