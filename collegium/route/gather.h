// Reading scores at assignments.
#pragma once
#include <ATen/core/Tensor.h>

namespace collegium::route {

using at::Tensor;

/// score_NE at (token_R, expert_R), with gradient. [R]
Tensor gather_scores(const Tensor& score_NE, const Tensor& token_R, const Tensor& expert_R);

}  // namespace collegium::route
