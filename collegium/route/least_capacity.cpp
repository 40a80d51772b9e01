#include "collegium/route/least_capacity.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "collegium/base/error.h"

namespace collegium::route {

double largest_share_within(double cosine, int64_t d_model) {
  require(cosine >= -1 && cosine <= 1, "largest_share_within: a cosine lies in [-1, 1], got ", cosine);
  const auto square = std::pow(std::max(cosine, 0.0), 2);
  return std::exp(-static_cast<double>(d_model) * square / (2 - square));
}

double least_capacity(double cosine, int64_t d_model, int64_t n_experts) {
  require(n_experts >= 1, "least_capacity: at least one expert is needed, got ", n_experts);
  return 1 / (static_cast<double>(n_experts) * largest_share_within(cosine, d_model));
}

double cosine_of_largest_angle(const Tensor& x_ND, const Tensor& weight_ED, const Decision& decision) {
  if (decision.n_kept() == 0) return 1;
  const auto rows = [](const Tensor& of, const Tensor& index) {
    const auto picked_RD = of.detach().to(at::kDouble).index_select(0, index);
    return picked_RD / picked_RD.norm(2, 1, true).clamp_min(1e-300);
  };
  const auto cosine_R = (rows(x_ND, decision.token_R()) * rows(weight_ED, decision.expert_R())).sum(1);
  return std::clamp(cosine_R.min().item<double>(), -1.0, 1.0);
}

}  // namespace collegium::route
