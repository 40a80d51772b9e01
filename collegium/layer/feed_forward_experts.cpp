#include "collegium/layer/feed_forward_experts.h"

#include <ATen/ATen.h>

#include <cmath>

#include "collegium/kernels/experts.h"

namespace collegium::layer {

FeedForwardExperts::FeedForwardExperts(const Kind& kind, const Config& config, const Inputs& in) : kind_(kind) {
  const auto normal = [&](std::string_view name, at::IntArrayRef sizes, int64_t n_together = 1) {
    const auto std = std::sqrt(config.init_scale / static_cast<double>(n_together * sizes[2]));
    return in.random.at(name).normal(sizes, std, in.options).requires_grad_(true);
  };
  up_EHD_ = normal(kind.first, {in.n_experts, kind.parts * in.d_expert, in.d_model});
  down_EDI_ = normal("down", {in.n_experts, in.d_model, in.d_expert}, in.n_together);
}

Tensor FeedForwardExperts::forward(const Tensor& x_ND, const route::Decision& d) {
  const auto y_RD = rows(kernels::gather_rows(x_ND, d.token_R()), d.offset_E1());
  return kernels::combine(y_RD, d.gate_R(), d.token_R(), x_ND.size(0));
}

Tensor FeedForwardExperts::rows(const Tensor& x_RD, const Tensor& offset_E1) {
  const auto dtype = x_RD.scalar_type();
  const auto h_RH = kernels::grouped_linear(x_RD, up_EHD_.to(dtype), offset_E1);
  return kernels::grouped_linear(activate_rows(h_RH), down_EDI_.to(dtype), offset_E1);
}

Tensor FeedForwardExperts::one(const Tensor& x_RD, int64_t expert) {
  return at::linear(hidden(x_RD, expert), down_EDI_[expert].to(x_RD.scalar_type()));
}

Tensor FeedForwardExperts::hidden(const Tensor& x_RD, int64_t expert) {
  return activate(at::linear(x_RD, up_EHD_[expert].to(x_RD.scalar_type())));
}

route::UnitPrediction FeedForwardExperts::predict_units(const Tensor& x_ND, int64_t) {
  return layer::predict_units(x_ND, up_EHD_.chunk(kind_.parts, 1)[0]);
}

std::vector<Experts::View> FeedForwardExperts::view(int64_t expert) {
  require(expert >= 0 && expert < up_EHD_.size(0), kind_.name, ": there is no expert ", expert);
  return {{std::string(kind_.first), up_EHD_[expert]}, {"down", down_EDI_[expert]}};
}

void FeedForwardExperts::collect(ParameterList& list) {
  list.parameter(kind_.first, up_EHD_);
  list.parameter("down", down_EDI_);
}

int64_t FeedForwardExperts::parameters_per_expert() const {
  return (up_EHD_.numel() + down_EDI_.numel()) / up_EHD_.size(0);
}

}  // namespace collegium::layer
