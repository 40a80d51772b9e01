#include "collegium/kernels/experts_torch.h"

#include <ATen/ATen.h>

#include "collegium/base/error.h"
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
  const auto y_AD = products.times(activated(call.kind, h_AH), second_EDI.transpose(1, 2));
  return {token_sums(y_AD, call.gate_R, call.token_R, call.x_ND.size(0)), keep ? h_AH : Tensor()};
}

// The same equations as in experts.cpp: one product q = dy W2 gives the gates' and the activations' gradients. Sums are
// in float, or double; what is between them is in the type of the experts.
ExpertsGradients torch_experts_backward(const GroupedProducts& products, const ExpertsCall& call, const Tensor& pre_AH,
                                        const Tensor& grad_ND, const std::array<bool, 4>& wanted) {
  const auto type = call.x_ND.scalar_type(), wide = wide_type(type);
  const auto first_EHD = call.first_EHD.contiguous(), second_EDI = call.second_EDI.contiguous();
  const auto grad_AD = read_rows(grad_ND, call.token_R);
  const auto gate_A1 = call.gate_R.to(type).unsqueeze(1);
  ExpertsGradients out;
  const auto a_AI = wanted[1] || wanted[3] ? activated(call.kind, pre_AH) : Tensor();
  if (wanted[3]) out.second_EDI = products.outer(grad_AD, gate_A1 * a_AI);
  if (!wanted[0] && !wanted[1] && !wanted[2]) return out;
  const auto q_AI = products.times(grad_AD, second_EDI);
  if (wanted[1])
    out.gate_R = (q_AI * a_AI).sum(-1, /*keepdim=*/false, wide).masked_fill(call.token_R.ge(call.x_ND.size(0)), 0);
  if (!wanted[0] && !wanted[2]) return out;
  const auto grad_h_AH = pre_activation_gradient(call.kind, pre_AH, gate_A1 * q_AI);
  if (wanted[2]) out.first_EHD = products.outer(grad_h_AH, read_rows(call.x_ND, call.token_R));
  if (wanted[0]) out.x_ND = token_sums(products.times(grad_h_AH, first_EHD), {}, call.token_R, call.x_ND.size(0));
  return out;
}

}  // namespace collegium::kernels
