// Rotary positions (Su 2021, eq. 34; the two halves of a head are the pairs, as in transformers).
//
// B sequences, T tokens, H heads, d head width.
#pragma once
#include <ATen/core/Tensor.h>

namespace collegium::kernels {

using at::Tensor;

/// Cosines and sines of positions first … first + T - 1, the same for all sequences; or a row for each token of all
/// sequences, [B T, d/2].
struct Rotation {
  Tensor cos_Td2, sin_Td2;  ///< [T, d/2]
  /// A row for each of some tokens. token_R: int64 in [0, B T)
  Rotation of(const Tensor& token_R) const;
};

/// `options` gives the device; angles are formed in double and kept in float32, or double for double options.
Rotation rotation(int64_t first, int64_t T, int64_t d, double theta, const at::TensorOptions& options);

/// Rotates x_BTHd [B, T, H, d] (any strides), with gradient. The result is contiguous.
Tensor rotate(const Tensor& x_BTHd, const Rotation& rotation);

namespace plain {
Tensor rotate(const Tensor& x_BTHd, const Rotation& rotation);
}

}  // namespace collegium::kernels
