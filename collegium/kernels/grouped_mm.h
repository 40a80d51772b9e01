// Which products experts run on devices without loops of ours: torch's grouped one where it is made for the case, else
// one an expert (experts_torch.h). The choice is a function of facts, so that a test can make it for a GPU that is not
// there.
//
// Legend: as in experts.h.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>

#include "collegium/kernels/cuda_driver.h"

namespace collegium::kernels {

using at::Tensor;

struct ProductChoice {
  bool is_grouped;  ///< at::_grouped_mm, else a loop over the experts
  std::string why;
};

/// torch's kernel takes bfloat16 on generation 9.0 and later (before, torch itself loops or refuses), and rows whose
/// bytes are a multiple of 16.
ProductChoice choose_product(at::ScalarType type, int64_t width, int64_t hidden, std::optional<Capability> capability);

/// The choice for these tensors where they are.
bool uses_grouped_mm(const Tensor& x_ND, const Tensor& second_EDI);

/// One line for people: what CUDA would run, and why.
std::string cuda_products_report(std::optional<Capability> capability);

}  // namespace collegium::kernels
