#include "collegium/layer/experts.h"

#include <ATen/ATen.h>

namespace collegium::layer {

extern const Entry<Experts> experts_gelu;
extern const Entry<Experts> experts_lora;
extern const Entry<Experts> experts_swiglu;

Entries<Experts> experts() {
  static constexpr const Entry<Experts>* kAll[] = {
      &experts_gelu,
      &experts_lora,
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

}  // namespace collegium::layer
