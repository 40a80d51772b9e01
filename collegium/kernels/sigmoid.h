// The logistic function, the same bits for an element wherever it stands.
#pragma once
#include <ATen/core/Tensor.h>

namespace collegium::kernels {

using at::Tensor;

/// 1 / (1 + exp(-z)) of any shape. torch's own rounds the last elements of a tensor, which do not fill a vector
/// register, in another way than the others, so a token's score would depend on how many tokens come after it.
/// Differentiable once; float and double on the CPU take the loop, all else the plain version.
Tensor sigmoid(const Tensor& z);

namespace plain {
Tensor sigmoid(const Tensor& z);
}

}  // namespace collegium::kernels
