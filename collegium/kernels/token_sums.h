// Sums of rows by token in torch's own operations, for devices and types without loops of ours.
//
// Legend: N tokens, A rows, D columns.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>

namespace collegium::kernels {

using at::Tensor;

/// [n_tokens, D], in the type of the rows, summed in float or double: each token's sum of gate * row, zero for a token
/// without rows. gate_A: any floating type, undefined = 1. token_A: int64; rows of a token from n_tokens on count for
/// nobody, whatever is in them. On a CUDA device the order of the sum is that of the rows, so that results repeat to
/// the bit.
Tensor token_sums(const Tensor& rows_AD, const Tensor& gate_A, const Tensor& token_A, int64_t n_tokens);

/// [B, D]: sums of rows of values_VD, bag after bag: bag b has those of index_R from first_B[b] up to the next bag,
/// each times its weight (any floating type, rounded to that of the values; undefined = 1). All of them beside the
/// values; without gradient.
Tensor bag_sums(const Tensor& values_VD, const Tensor& index_R, const Tensor& first_B, const Tensor& weight_R);

/// How token_sums does it on CUDA devices, on any device: each token is a bag of rows, in their order.
Tensor token_sums_by_bags(const Tensor& rows_AD, const Tensor& gate_A, const Tensor& token_A, int64_t n_tokens);

}  // namespace collegium::kernels
