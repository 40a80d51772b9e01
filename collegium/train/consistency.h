// Two passes over the same tokens with different routing noise should predict the same: THOR's regulariser (P062, Zuo
// 2021, eq. 4 and 5), for any router that draws.
//
// N tokens, V vocabulary.
#pragma once
#include <ATen/core/Tensor.h>

#include <nlohmann/json.hpp>

namespace collegium::train {

using at::Tensor;

/// Mean over tokens of (KL(a || b) + KL(b || a)) / 2 of the predictions softmax(logit), in nats; 0 = they agree. Both
/// sides carry the gradient. Scalar, in float32 (double stays double).
Tensor consistency_loss(const Tensor& logit_a_NV, const Tensor& logit_b_NV);

/// How far two passes agree, over the passes of one evaluation.
class Agreement {
 public:
  void add(const Tensor& logit_a_NV, const Tensor& logit_b_NV);
  /// row["agreement"]: share of tokens for which both passes hold the same token likeliest; row["divergence"]: their
  /// consistency loss in nats. Absent where nothing was added.
  void report(nlohmann::json& row) const;

 private:
  double n_equal_ = 0, nats_ = 0;
  int64_t n_ = 0;
};

}  // namespace collegium::train
