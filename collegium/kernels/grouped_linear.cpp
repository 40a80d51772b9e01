#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "collegium/kernels/experts.h"
#include "collegium/kernels/experts_passes.h"
#include "collegium/kernels/products.h"

namespace collegium::kernels {
namespace {

struct GroupedLinear : torch::autograd::Function<GroupedLinear> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x_in, const Tensor& weight_in,
                        const Tensor& offset_E1) {
    const auto x_RD = x_in.contiguous(), weight_EHD = weight_in.contiguous();
    context->save_for_backward({x_RD, weight_EHD, offset_E1});
    return grouped_linear_forward(x_RD, weight_EHD, offset_E1);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& grads) {
    refuse_second_derivative("grouped_linear");
    const auto saved = context->get_saved_variables();
    const auto out = grouped_linear_backward(saved[0], saved[1], saved[2], grads[0],
                                             {context->needs_input_grad(0), context->needs_input_grad(1)});
    return {out.x_RD, out.weight_EHD, Tensor()};
  }
};

}  // namespace

Tensor grouped_linear_forward(const Tensor& x_in, const Tensor& weight_in, const Tensor& offset_E1) {
  const auto x_RD = x_in.contiguous(), weight_EHD = weight_in.contiguous();
  const int64_t n_rows = x_RD.size(0), width = x_RD.size(1), n_out = weight_EHD.size(1);
  auto y_RH = fresh({n_rows, n_out}, x_RD.options());
  by_element(x_RD.scalar_type(), [&]<class S>(std::type_identity<S>) {
    const Experts experts{offset_E1.const_data_ptr<int64_t>(), weight_EHD.size(0)};
    const auto rows = row_pointers(data<S>(x_RD), width, nullptr, n_rows);
    product_linear(rows, experts, data<S>(weight_EHD), n_out, width, mutable_data<S>(y_RH));
  });
  return y_RH;
}

LinearGradients grouped_linear_backward(const Tensor& x_in, const Tensor& weight_in, const Tensor& offset_E1,
                                        const Tensor& grad_in, const std::array<bool, 2>& wanted) {
  const auto x_RD = x_in.contiguous(), weight_EHD = weight_in.contiguous(), grad_RH = grad_in.contiguous();
  const int64_t n_rows = x_RD.size(0), width = x_RD.size(1), n_out = weight_EHD.size(1);
  LinearGradients out;
  by_element(x_RD.scalar_type(), [&]<class S>(std::type_identity<S>) {
    const Experts experts{offset_E1.const_data_ptr<int64_t>(), weight_EHD.size(0)};
    const auto rows = row_pointers(data<S>(grad_RH), n_out, nullptr, n_rows);
    if (wanted[0]) {
      out.x_RD = fresh(x_RD.sizes(), x_RD.options());
      product_times(rows, experts, data<S>(weight_EHD), width, n_out, mutable_data<S>(out.x_RD));
    }
    if (wanted[1]) {
      out.weight_EHD = fresh(weight_EHD.sizes(), weight_EHD.options());
      const auto x_rows = row_pointers(data<S>(x_RD), width, nullptr, n_rows);
      product_outer(rows, n_out, x_rows, width, experts, mutable_data<S>(out.weight_EHD));
    }
  });
  return out;
}

Tensor grouped_linear(const Tensor& x_RD, const Tensor& weight_EHD, const Tensor& offset_E1) {
  require(x_RD.dim() == 2 && weight_EHD.dim() == 3 && x_RD.size(1) == weight_EHD.size(2),
          "grouped_linear: x [R, D] and weight [E, H, D] wanted, got ", x_RD.sizes(), " and ", weight_EHD.sizes());
  check_same("grouped_linear", x_RD, weight_EHD);
  check_offset("grouped_linear", offset_E1, weight_EHD.size(0), x_RD.size(0));
  if (!has_loops(x_RD)) return plain::grouped_linear(x_RD, weight_EHD, offset_E1);
  return GroupedLinear::apply(x_RD, weight_EHD, offset_E1);
}

Tensor linear(const Tensor& x_ND, const Tensor& weight_HD) {
  if (!has_loops(x_ND)) return at::linear(x_ND, weight_HD);
  return grouped_linear(x_ND, weight_HD.unsqueeze(0), at::tensor({int64_t{0}, x_ND.size(0)}, at::kLong));
}

}  // namespace collegium::kernels
