// The plain versions: what the fast ones are held against, and what other devices run.
#include <ATen/ATen.h>

#include <vector>

#include "collegium/kernels/experts.h"

namespace collegium::kernels::plain {
namespace {

template <class Activate>
Tensor plain_experts(const Tensor& x_ND, const Tensor& gate_R, const Tensor& token_R, const Tensor& offset_E1,
                     const Tensor& first_EHD, const Tensor& second_EDI, const Activate& activate) {
  const auto h_RH = plain::grouped_linear(plain::gather_rows(x_ND, token_R), first_EHD, offset_E1);
  const auto y_RD = plain::grouped_linear(activate(h_RH), second_EDI, offset_E1);
  return plain::combine(y_RD, gate_R, token_R, x_ND.size(0));
}

}  // namespace

Tensor grouped_linear(const Tensor& x_RD, const Tensor& weight_EHD, const Tensor& offset_E1) {
  const auto* offset = offset_E1.const_data_ptr<int64_t>();
  // One node in the graph for all experts: a select() an expert would make a gradient of the whole weight for each.
  const auto weight = weight_EHD.unbind(0);
  std::vector<Tensor> parts = {at::zeros({0, weight_EHD.size(1)}, x_RD.options())};
  for (int64_t e = 0; e < weight_EHD.size(0); ++e)
    if (offset[e] < offset[e + 1])
      parts.push_back(at::linear(x_RD.slice(0, offset[e], offset[e + 1]), weight[static_cast<size_t>(e)]));
  return at::cat(parts);
}

Tensor swiglu(const Tensor& h_RH) {
  const auto halves = h_RH.chunk(2, -1);
  return at::silu(halves[0]) * halves[1];
}

Tensor gather_rows(const Tensor& x_ND, const Tensor& token_R) {
  return x_ND.index_select(0, token_R);
}

Tensor combine(const Tensor& y_RD, const Tensor& gate_R, const Tensor& token_R, int64_t n_tokens) {
  const auto wide = y_RD.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const auto weighted_RD = y_RD.to(wide) * gate_R.to(wide).unsqueeze(1);
  const auto zero_ND = at::zeros({n_tokens, y_RD.size(1)}, weighted_RD.options());
  return zero_ND.index_add(0, token_R, weighted_RD).to(y_RD.scalar_type());
}

Tensor swiglu_experts(const Tensor& x_ND, const Tensor& gate_R, const Tensor& token_R, const Tensor& offset_E1,
                      const Tensor& gate_up_EHD, const Tensor& down_EDI) {
  return plain_experts(x_ND, gate_R, token_R, offset_E1, gate_up_EHD, down_EDI, plain::swiglu);
}

Tensor gelu_experts(const Tensor& x_ND, const Tensor& gate_R, const Tensor& token_R, const Tensor& offset_E1,
                    const Tensor& up_EID, const Tensor& down_EDI) {
  return plain_experts(x_ND, gate_R, token_R, offset_E1, up_EID, down_EDI, [](const Tensor& h) { return at::gelu(h); });
}

}  // namespace collegium::kernels::plain
