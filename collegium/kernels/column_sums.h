// Sums over tokens.
//
// Legend: N tokens, E experts.
#pragma once
#include <ATen/core/Tensor.h>

namespace collegium::kernels {

using at::Tensor;

/// sum over n of weight_N[n] * value_NE[n], [E]; an undefined weight counts as 1. On the CPU the bits are the same for
/// any number of threads: blocks of a fixed number of tokens are summed, then their sums, both in order.
/// Differentiable, twice too, in the values. Value and weight have one type; float and double on the CPU take the loop,
/// all else the plain version.
Tensor column_sums(const Tensor& value_NE, const Tensor& weight_N = {});

namespace plain {
Tensor column_sums(const Tensor& value_NE, const Tensor& weight_N = {});
}

}  // namespace collegium::kernels
