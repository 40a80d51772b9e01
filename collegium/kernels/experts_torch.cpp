#include "collegium/kernels/experts_torch.h"

#include <ATen/ATen.h>

#include "collegium/base/error.h"
#include "collegium/kernels/cuda_kernels.h"
#include "collegium/kernels/experts.h"
#include "collegium/kernels/token_sums.h"
#include "collegium/kernels/work.h"

namespace collegium::kernels {
namespace {

class LoopedProducts final : public GroupedProducts {
 public:
  explicit LoopedProducts(const Tensor& offset_E1) : offset_E1_(offset_E1.contiguous()) {}

  Tensor times(const Tensor& rows_AM, const Tensor& matrix_EMN) const override {
    auto out_AN = at::zeros({rows_AM.size(0), matrix_EMN.size(2)}, rows_AM.options());
    for_each_expert([&](int64_t e, int64_t from, int64_t to) {
      auto part = out_AN.slice(0, from, to);
      at::mm_out(part, rows_AM.slice(0, from, to), matrix_EMN.select(0, e));
    });
    return out_AN;
  }

  Tensor outer(const Tensor& left_AM, const Tensor& right_AN) const override {
    auto out_EMN = at::zeros({offset_E1_.size(0) - 1, left_AM.size(1), right_AN.size(1)}, left_AM.options());
    for_each_expert([&](int64_t e, int64_t from, int64_t to) {
      auto part = out_EMN.select(0, e);
      at::mm_out(part, left_AM.slice(0, from, to).t(), right_AN.slice(0, from, to));
    });
    return out_EMN;
  }

 private:
  template <class Work>
  void for_each_expert(const Work& work) const {
    const auto* offset = offset_E1_.const_data_ptr<int64_t>();
    for (int64_t e = 0; e + 1 < offset_E1_.size(0); ++e)
      if (offset[e] < offset[e + 1]) work(e, offset[e], offset[e + 1]);
  }

  Tensor offset_E1_;
};

#if __has_include(<ATen/ops/_grouped_mm.h>)
class TorchGroupedProducts final : public GroupedProducts {
 public:
  explicit TorchGroupedProducts(const Tensor& end_E) : end_E_(end_E) {}

  Tensor times(const Tensor& rows_AM, const Tensor& matrix_EMN) const override {
    if (rows_AM.size(0) == 0) return at::zeros({0, matrix_EMN.size(2)}, rows_AM.options());
    return at::_grouped_mm(rows_AM, matrix_EMN, end_E_);
  }

  Tensor outer(const Tensor& left_AM, const Tensor& right_AN) const override {
    if (left_AM.size(0) == 0) return at::zeros({end_E_.size(0), left_AM.size(1), right_AN.size(1)}, left_AM.options());
    return at::_grouped_mm(left_AM.t(), right_AN, end_E_);
  }

 private:
  Tensor end_E_;
};
#endif

// Whether our own CUDA kernels do what is between the products.
bool is_ours(const ExpertsCall& call) {
  return has_cuda_kernels(call.x_ND, call.second_EDI.size(2)) && has_cuda_kernels(call.x_ND, call.x_ND.size(1));
}

Tensor activated(ExpertKind kind, const Tensor& h_AH) {
  return kind == ExpertKind::swiglu ? plain::swiglu(h_AH) : at::gelu(h_AH);
}

// The gradient of the pre-activations for one of the activations.
Tensor pre_activation_gradient(ExpertKind kind, const Tensor& h_AH, const Tensor& grad_AI) {
  if (kind == ExpertKind::gelu) return at::gelu_backward(grad_AI, h_AH);
  const auto halves = h_AH.chunk(2, -1);
  auto out_AH = at::empty_like(h_AH);
  auto parts = out_AH.chunk(2, -1);
  at::silu_backward_out(parts[0], grad_AI * halves[1], halves[0]);
  at::mul_out(parts[1], grad_AI, at::silu(halves[0]));
  return out_AH;
}

// Each token's sum over its rows.
Tensor summed(const ExpertsCall& call, const Tensor& rows_AD, bool gated) {
  const auto N = call.x_ND.size(0);
  if (call.place_A.defined()) return cuda_bag_sums(rows_AD, call.place_A, {}, N, gated ? call.gate_A : Tensor());
  return token_sums(rows_AD, gated ? call.gate_R : Tensor(), call.token_R, N);
}

// Rows of nobody read any token.
Tensor read_rows(const Tensor& t_ND, const Tensor& token_A) {
  return t_ND.index_select(0, token_A.clamp_max(t_ND.size(0) - 1));
}

}  // namespace

std::unique_ptr<GroupedProducts> looped_products(const Tensor& offset_E1) {
  return std::make_unique<LoopedProducts>(offset_E1);
}

std::unique_ptr<GroupedProducts> torch_grouped_products([[maybe_unused]] const Tensor& end_E) {
#if __has_include(<ATen/ops/_grouped_mm.h>)
  return std::make_unique<TorchGroupedProducts>(end_E);
#else
  fail(ErrorKind::usage, "torch_grouped_products: this torch has no grouped product");
#endif
}

ExpertsResult torch_experts_forward(const GroupedProducts& products, const ExpertsCall& call, bool keep) {
  const auto first_EHD = call.first_EHD.contiguous(), second_EDI = call.second_EDI.contiguous();
  const auto h_AH = products.times(read_rows(call.x_ND, call.token_R), first_EHD.transpose(1, 2));
  const auto a_AI = is_ours(call) ? cuda_activate(call.kind, h_AH) : activated(call.kind, h_AH);
  return {summed(call, products.times(a_AI, second_EDI.transpose(1, 2)), true), keep ? h_AH : Tensor()};
}

// The same equations as in experts.cpp: one product q = dy W2 gives the gates' and the activations' gradients. Sums are
// in float, or double; what is between them is in the type of the experts.
ExpertsGradients torch_experts_backward(const GroupedProducts& products, const ExpertsCall& call, const Tensor& pre_AH,
                                        const Tensor& grad_ND, const std::array<bool, 4>& wanted) {
  const auto type = call.x_ND.scalar_type(), wide = wide_type(type);
  const auto first_EHD = call.first_EHD.contiguous(), second_EDI = call.second_EDI.contiguous();
  const auto grad_AD = read_rows(grad_ND, call.token_R);
  const bool wants_h = wanted[0] || wanted[2];
  ExpertsGradients out;
  Tensor q_AI;  // the gradient of the activations, but for the gate
  if (wants_h || wanted[1]) q_AI = products.times(grad_AD, second_EDI);
  Tensor grad_h_AH, gated_AI;
  if (q_AI.defined() && is_ours(call)) {
    const auto all = cuda_activate_backward(call.kind, pre_AH, q_AI, call.gate_R, wants_h, wanted[3], wanted[1]);
    grad_h_AH = all.grad_h_AH, gated_AI = all.gated_AI, out.gate_R = all.grad_gate_A;
  } else {
    const auto gate_A1 = call.gate_R.to(type).unsqueeze(1);
    const auto a_AI = wanted[1] || wanted[3] ? activated(call.kind, pre_AH) : Tensor();
    if (wanted[3]) gated_AI = gate_A1 * a_AI;
    if (wanted[1]) out.gate_R = (q_AI * a_AI).sum(-1, /*keepdim=*/false, wide);
    if (wants_h) grad_h_AH = pre_activation_gradient(call.kind, pre_AH, gate_A1 * q_AI);
  }
  if (out.gate_R.defined()) out.gate_R.masked_fill_(call.token_R.ge(call.x_ND.size(0)), 0);
  if (wanted[3]) out.second_EDI = products.outer(grad_AD, gated_AI);
  if (wanted[2]) out.first_EHD = products.outer(grad_h_AH, read_rows(call.x_ND, call.token_R));
  if (wanted[0]) out.x_ND = summed(call, products.times(grad_h_AH, first_EHD), false);
  return out;
}

}  // namespace collegium::kernels
