#include "collegium/layer/experts.h"

#include <ATen/ATen.h>

#include "collegium/kernels/router_linear.h"
#include "collegium/route/stages.h"

namespace collegium::layer {

extern const Entry<Experts> experts_gelu;
extern const Entry<Experts> experts_lora;
extern const Entry<Experts> experts_relu;
extern const Entry<Experts> experts_swiglu;

Entries<Experts> experts() {
  static constexpr const Entry<Experts>* kAll[] = {
      &experts_gelu,
      &experts_lora,
      &experts_relu,
      &experts_swiglu,
  };
  return kAll;
}

Tensor forward_loop(Experts& experts, const Tensor& x_ND, const route::Decision& decision) {
  auto y_ND = at::zeros(x_ND.sizes(), x_ND.options().requires_grad(false));
  const auto* offset = decision.offset_E1().const_data_ptr<int64_t>();
  for (int64_t e = 0; e < decision.n_experts(); ++e) {
    if (offset[e] == offset[e + 1]) continue;
    const auto token_T = decision.token_R().slice(0, offset[e], offset[e + 1]);
    const auto gate_T = decision.gate_R().slice(0, offset[e], offset[e + 1]);
    const auto out_TD = experts.one(x_ND.index_select(0, token_T), e);
    y_ND = y_ND.index_add(0, token_T, out_TD * gate_T.unsqueeze(1).to(out_TD.scalar_type()));
  }
  return y_ND;
}

route::UnitPrediction predict_units(const Tensor& x_ND, const Tensor& up_EID) {
  const auto dtype = route::router_dtype(x_ND);
  const auto x = x_ND.to(dtype), up = up_EID.to(dtype);
  return {kernels::router_linear(x, up.mean(1)), kernels::router_linear(x.square(), up.var(1, /*unbiased=*/false))};
}

Tensor wide_hidden(Experts& experts, const Tensor& x_ND, const route::Decision& decision) {
  const auto* offset = decision.offset_E1().const_data_ptr<int64_t>();
  const auto E = decision.n_experts(), I = experts.hidden(x_ND.slice(0, 0, 0), 0).size(1);
  auto out_NEI = at::zeros({x_ND.size(0), E, I}, x_ND.options().requires_grad(false));
  for (int64_t e = 0; e < E; ++e) {
    const auto token_T = decision.token_R().slice(0, offset[e], offset[e + 1]);
    out_NEI.select(1, e).index_copy_(0, token_T, experts.hidden(x_ND.index_select(0, token_T), e));
  }
  return out_NEI.reshape({-1, E * I});
}

}  // namespace collegium::layer
