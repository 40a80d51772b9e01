#include "collegium/train/consistency.h"

#include <ATen/ATen.h>

namespace collegium::train {

Tensor consistency_loss(const Tensor& logit_a_NV, const Tensor& logit_b_NV) {
  const auto type = logit_a_NV.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const auto log_a_NV = logit_a_NV.to(type).log_softmax(-1), log_b_NV = logit_b_NV.to(type).log_softmax(-1);
  // Both divergences in one sum: a log(a / b) + b log(b / a) = (a - b) (log a - log b).
  return ((log_a_NV.exp() - log_b_NV.exp()) * (log_a_NV - log_b_NV)).sum(-1).mean() / 2;
}

void Agreement::add(const Tensor& logit_a_NV, const Tensor& logit_b_NV) {
  const auto n = logit_a_NV.size(0);
  if (n == 0) return;
  n_equal_ += logit_a_NV.argmax(-1).eq(logit_b_NV.argmax(-1)).sum().item<double>();
  nats_ += consistency_loss(logit_a_NV, logit_b_NV).item<double>() * static_cast<double>(n);
  n_ += n;
}

void Agreement::report(nlohmann::json& row) const {
  if (n_ == 0) return;
  row["agreement"] = n_equal_ / static_cast<double>(n_), row["divergence"] = nats_ / static_cast<double>(n_);
}

}  // namespace collegium::train
