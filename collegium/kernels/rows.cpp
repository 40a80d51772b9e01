// gather_rows and combine: tokens to assignments and back.
#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "collegium/kernels/experts.h"
#include "collegium/kernels/products.h"
#include "collegium/kernels/token_sums.h"

namespace collegium::kernels {
namespace {

struct GatherRows : torch::autograd::Function<GatherRows> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x_ND, const Tensor& token_R) {
    context->save_for_backward({token_R});
    context->saved_data["n_tokens"] = x_ND.size(0);
    return x_ND.index_select(0, token_R);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& grads) {
    refuse_second_derivative("gather_rows");
    const auto token_R = context->get_saved_variables()[0];
    const auto n_tokens = context->saved_data["n_tokens"].toInt();
    const auto grad_RD = grads[0].contiguous();
    if (!has_loops(grad_RD)) return {token_sums(grad_RD, {}, token_R, n_tokens), Tensor()};
    auto grad_ND = fresh({n_tokens, grad_RD.size(1)}, grad_RD.options());
    by_element(grad_RD.scalar_type(), [&]<class S>(std::type_identity<S>) {
      const auto by_token = rows_by_token(token_R.const_data_ptr<int64_t>(), token_R.size(0), n_tokens);
      sum_rows<S>(by_token, n_tokens, data<S>(grad_RD), nullptr, grad_RD.size(1), mutable_data<S>(grad_ND));
    });
    return {grad_ND, Tensor()};
  }
};

struct Combine : torch::autograd::Function<Combine> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& y_in, const Tensor& gate_in,
                        const Tensor& token_R, int64_t n_tokens) {
    const auto y_RD = y_in.contiguous();
    const auto gate_R = gate_in.to(wide_type(y_RD.scalar_type())).contiguous();
    context->save_for_backward({y_RD, gate_R, token_R});
    if (!has_loops(y_RD)) return token_sums(y_RD, gate_R, token_R, n_tokens);
    auto out_ND = fresh({n_tokens, y_RD.size(1)}, y_RD.options());
    by_element(y_RD.scalar_type(), [&]<class S>(std::type_identity<S>) {
      const auto by_token = rows_by_token(token_R.const_data_ptr<int64_t>(), token_R.size(0), n_tokens);
      sum_rows<S>(by_token, n_tokens, data<S>(y_RD), data<Wide<S>>(gate_R), y_RD.size(1), mutable_data<S>(out_ND));
    });
    return out_ND;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& grads) {
    refuse_second_derivative("combine");
    const auto saved = context->get_saved_variables();
    const auto &y_RD = saved[0], &gate_R = saved[1], &token_R = saved[2];
    const auto grad_ND = grads[0].contiguous();
    if (!has_loops(y_RD)) {
      const auto grad_RD = grad_ND.index_select(0, token_R);
      return {context->needs_input_grad(0) ? grad_RD * gate_R.to(y_RD.scalar_type()).unsqueeze(1) : Tensor(),
              context->needs_input_grad(1) ? (grad_RD * y_RD).sum(-1, false, gate_R.scalar_type()) : Tensor(), Tensor(),
              Tensor()};
    }
    const int64_t n_rows = y_RD.size(0), width = y_RD.size(1);
    const Tensor grad_y_RD = context->needs_input_grad(0) ? fresh(y_RD.sizes(), y_RD.options()) : Tensor();
    const Tensor grad_gate_R = context->needs_input_grad(1) ? fresh(gate_R.sizes(), gate_R.options()) : Tensor();
    by_element(y_RD.scalar_type(), [&]<class S>(std::type_identity<S>) {
      using W = Wide<S>;
      const S *y = data<S>(y_RD), *grad = data<S>(grad_ND);
      const W* gate = data<W>(gate_R);
      const auto* token = token_R.const_data_ptr<int64_t>();
      S* grad_y = grad_y_RD.defined() ? mutable_data<S>(grad_y_RD) : nullptr;
      W* grad_gate = grad_gate_R.defined() ? mutable_data<W>(grad_gate_R) : nullptr;
      at::parallel_for(0, n_rows, 1 + 16384 / (1 + width), [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) {
          const S* from = grad + token[r] * width;
          if (grad_y) loops<S>().scale(gate[r], from, width, grad_y + r * width);
          if (grad_gate) grad_gate[r] = loops<S>().inner(from, y + r * width, width);
        }
      });
    });
    return {grad_y_RD, grad_gate_R, Tensor(), Tensor()};
  }
};

}  // namespace

Tensor gather_rows(const Tensor& x_ND, const Tensor& token_R) {
  require(x_ND.dim() == 2, "gather_rows: x [N, D] wanted, got ", x_ND.sizes());
  check_token("gather_rows", token_R, x_ND.size(0));
  if (!has_passes(x_ND)) return plain::gather_rows(x_ND, token_R);
  return GatherRows::apply(x_ND, token_R.contiguous());
}

Tensor combine(const Tensor& y_RD, const Tensor& gate_R, const Tensor& token_R, int64_t n_tokens) {
  require(y_RD.dim() == 2 && gate_R.dim() == 1 && gate_R.size(0) == y_RD.size(0) && token_R.numel() == y_RD.size(0),
          "combine: y [R, D], gate [R] and token [R] wanted, got ", y_RD.sizes(), ", ", gate_R.sizes(), " and ",
          token_R.sizes());
  require(n_tokens >= 0, "combine: n_tokens must be at least 0, got ", n_tokens);
  check_gate("combine", gate_R, y_RD);
  check_token("combine", token_R, n_tokens);
  if (!has_passes(y_RD)) return plain::combine(y_RD, gate_R, token_R, n_tokens);
  return Combine::apply(y_RD, gate_R, token_R.contiguous(), n_tokens);
}

}  // namespace collegium::kernels
