#include "collegium/layer/atomic_experts.h"

#include <ATen/ATen.h>

#include <array>
#include <cmath>

#include "collegium/kernels/pairs.h"
#include "collegium/route/stages.h"

namespace collegium::layer {

std::span<const std::string_view> enum_names(AtomicActivation) {
  static constexpr std::array<std::string_view, 2> names = {"silu", "gelu"};
  return names;
}

std::span<const std::string_view> enum_names(Schedule) {
  static constexpr std::array<std::string_view, 2> names = {"expert", "token"};
  return names;
}

AtomicExperts::AtomicExperts(const AtomicConfig& config, int64_t n_experts, int64_t d_model, const Random& random,
                             const at::TensorOptions& options)
    : config_(config) {
  const auto normal = [&](std::string_view name, double std) {
    if (std == 0) std = 1 / std::sqrt(static_cast<double>(d_model));
    return random.at(name).normal({n_experts, d_model}, std, options).requires_grad_(true);
  };
  if (config.gated) gate_ED_ = normal("gate", config.up_std);
  up_ED_ = normal("up", config.up_std);
  down_ED_ = normal("down", config.down_std);
}

Tensor AtomicExperts::forward(const Tensor& x_ND, const route::Decision& decision) const {
  return config_.schedule == Schedule::expert ? by_expert(x_ND, decision) : by_token(x_ND, decision);
}

Tensor AtomicExperts::activate(const Tensor& h) const {
  return config_.activation == AtomicActivation::silu ? at::silu(h) : at::gelu(h);
}

Tensor AtomicExperts::by_expert(const Tensor& x_ND, const route::Decision& d) const {
  const auto dtype = x_ND.scalar_type();
  const auto product_R = [&](const Tensor& weight_ED) {
    return kernels::pair_products(x_ND, weight_ED.to(dtype), d.token_R(), d.offset_E1());
  };
  const auto up_R = product_R(up_ED_);
  const auto a_R = config_.gated ? activate(product_R(gate_ED_)) * up_R : activate(up_R);
  return kernels::pair_sums(a_R * d.gate_R().to(a_R), down_ED_.to(dtype), d.token_R(), d.offset_E1(), x_ND.size(0));
}

Tensor AtomicExperts::by_token(const Tensor& x_ND, const route::Decision& d) const {
  const auto N = x_ND.size(0), D = x_ND.size(1), R = d.n_kept();
  const auto dtype = x_ND.scalar_type();
  if (R == 0) return at::zeros_like(x_ND) + 0 * x_ND;  // no choice, but still a part of the graph
  const auto M = d.rank_R().max().item<int64_t>() + 1;
  const auto place_R = d.token_R() * M + d.rank_R();
  const auto expert_NM = at::zeros({N * M}, d.expert_R().options()).index_put_({place_R}, d.expert_R()).view({N, M});
  const auto weight_NM = at::zeros({N * M}, d.gate_R().options().requires_grad(false))
                             .index_put({place_R}, d.gate_R())
                             .view({N, M})
                             .to(dtype);
  const auto product_NM = [&](const Tensor& weight_ED) {
    return at::bmm(at::embedding(weight_ED.to(dtype), expert_NM), x_ND.unsqueeze(2)).squeeze(2);
  };
  const auto up_NM = product_NM(up_ED_);
  const auto a_NM = config_.gated ? activate(product_NM(gate_ED_)) * up_NM : activate(up_NM);
  return at::bmm((a_NM * weight_NM).unsqueeze(1), at::embedding(down_ED_.to(dtype), expert_NM)).view({N, D});
}

int64_t AtomicExperts::parameters_per_expert() const {
  return up_ED_.size(1) * (config_.gated ? 3 : 2);
}

void AtomicExperts::collect(ParameterList& list) {
  // Rows that a token looks up, which no optimiser should orthogonalise.
  if (config_.gated) list.parameter("gate", gate_ED_, ParameterKind::embedding);
  list.parameter("up", up_ED_, ParameterKind::embedding);
  list.parameter("down", down_ED_, ParameterKind::embedding);
}

}  // namespace collegium::layer
