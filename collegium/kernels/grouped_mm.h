// Expert products on devices without loops of ours: torch's grouped product where it is made for the case, else one
// product an expert. The choice is a function of facts, so that a test can make it for a GPU that is not there.
//
// Legend: as in experts.h; A choices, of which those behind the last expert's end do no work.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>

#include "collegium/kernels/cuda_driver.h"
#include "collegium/kernels/experts_passes.h"

namespace collegium::kernels {

struct ProductChoice {
  bool is_grouped;  ///< at::_grouped_mm, else a loop over the experts
  std::string why;
};

/// torch's kernel takes bfloat16 on generation 9.0 and later (before, torch itself loops or refuses), and rows whose
/// bytes are a multiple of 16.
ProductChoice choose_product(at::ScalarType type, int64_t width, int64_t hidden, std::optional<Capability> capability);

/// The choice for these tensors where they are.
bool uses_grouped_mm(const Tensor& x_ND, const Tensor& second_EDI);

/// [N, D]: fused experts by at::_grouped_mm, differentiable by torch. token_A, gate_A: sorted by expert; end_E: int32
/// on x's device, where each expert's rows end. Rows from end_E[E - 1] on do no work; `all_work` says that there are
/// none.
Tensor grouped_mm_experts(ExpertKind kind, const Tensor& x_ND, const Tensor& gate_A, const Tensor& token_A,
                          const Tensor& end_E, const Tensor& first_EHD, const Tensor& second_EDI, bool all_work);

/// One line for people: what CUDA would run, and why.
std::string cuda_products_report(std::optional<Capability> capability);

}  // namespace collegium::kernels
