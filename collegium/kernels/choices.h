// Choices as routers outside Collegium make them, K expert ids and gates a token, brought into the order that the
// expert kernels work in.
//
// Legend: N tokens, K choices a token, E experts, R choices that do work.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>

namespace collegium::kernels {

using at::Tensor;

/// Rows by expert, those of an expert in the order of their choices.
struct ChoiceRows {
  Tensor token_R;    ///< int64
  Tensor gate_R;     ///< in the type asked for
  Tensor place_R;    ///< int64, where each row stands among the N K choices
  Tensor offset_E1;  ///< int64, rows of expert e
};

/// expert_NK: int64 or int32 on the CPU; ids from n_experts on do no work, a negative one throws a usage Error.
/// gate_NK: of the same shape, floating point.
ChoiceRows sort_choices(const Tensor& expert_NK, const Tensor& gate_NK, int64_t n_experts, at::ScalarType gate_type);

}  // namespace collegium::kernels
