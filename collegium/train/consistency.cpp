#include "collegium/train/consistency.h"

#include <ATen/ATen.h>

namespace collegium::train {

Tensor consistency_loss(const Tensor& logit_a_NV, const Tensor& logit_b_NV) {
  const auto type = logit_a_NV.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const auto log_a_NV = logit_a_NV.to(type).log_softmax(-1), log_b_NV = logit_b_NV.to(type).log_softmax(-1);
  // Both divergences in one sum: a log(a / b) + b log(b / a) = (a - b) (log a - log b).
  return ((log_a_NV.exp() - log_b_NV.exp()) * (log_a_NV - log_b_NV)).sum(-1).mean() / 2;
}

}  // namespace collegium::train
