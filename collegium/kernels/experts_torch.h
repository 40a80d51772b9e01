// The passes of experts_passes.h in torch's own products, for devices and types without loops of ours.
//
// Legend: as in experts.h; A rows, sorted by expert, of which those behind the last expert's do no work; M columns of
// the left matrix, N of the right one.
#pragma once
#include <ATen/core/Tensor.h>

#include <array>
#include <memory>

#include "collegium/kernels/experts_passes.h"

namespace collegium::kernels {

/// Products of each expert's rows.
class GroupedProducts {
 public:
  virtual ~GroupedProducts() = default;
  /// [A, N]: each row times its expert's matrix; anything for rows that do no work.
  virtual Tensor times(const Tensor& rows_AM, const Tensor& matrix_EMN) const = 0;
  /// [E, M, N]: for each expert the sum over its rows of left^T right; zero for experts without rows.
  virtual Tensor outer(const Tensor& left_AM, const Tensor& right_AN) const = 0;
};

/// One product an expert, in every type and on every device. offset_E1: int64 on the CPU.
std::unique_ptr<GroupedProducts> looped_products(const Tensor& offset_E1);

/// at::_grouped_mm, which needs no number from the device. end_E: int32 beside the rows, where each expert's rows end.
/// A usage Error where this torch has none.
std::unique_ptr<GroupedProducts> torch_grouped_products(const Tensor& end_E);

/// experts_forward and experts_backward with these products. offset_E1 of the call is not read; rows that do no work
/// are of token N. Their pre-activations are anything.
ExpertsResult torch_experts_forward(const GroupedProducts& products, const ExpertsCall& call, bool keep);
ExpertsGradients torch_experts_backward(const GroupedProducts& products, const ExpertsCall& call, const Tensor& pre_AH,
                                        const Tensor& grad_ND, const std::array<bool, 4>& wanted);

}  // namespace collegium::kernels
