// RMSNorm with a fused forward and backward pass.
//
// N tokens, D width.
#pragma once
#include <ATen/core/Tensor.h>

namespace collegium::kernels {

using at::Tensor;

/// x / sqrt(mean(x^2) + epsilon) * gain over the last dimension; mean and division in float32 (double stays double),
/// result in x's dtype. x_ND [N, D], gain_D [D]. Zhang 2019, eq. 4.
Tensor rms_norm(const Tensor& x_ND, const Tensor& gain_D, double epsilon);

namespace plain {
Tensor rms_norm(const Tensor& x_ND, const Tensor& gain_D, double epsilon);
}

}  // namespace collegium::kernels
