#include "collegium/kernels/router_linear.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "collegium/base/error.h"
#include "collegium/kernels/work.h"

namespace collegium::kernels {
namespace {

Tensor router_logits(const Tensor& x_ND, const Tensor& weight_ED) {
  const int64_t n_tokens = x_ND.size(0), width = x_ND.size(1), n_experts = weight_ED.size(0);
  auto logit_NE = at::empty({n_tokens, n_experts}, x_ND.options());
  by_element(x_ND.scalar_type(), [&]<class S>(std::type_identity<S>) {
    const auto& loop = loops<S>();
    const S *x = data<S>(x_ND), *weight = data<S>(weight_ED);
    S* logit = mutable_data<S>(logit_NE);
    const int64_t grain = 1 + 65536 / (1 + width * n_experts);
    at::parallel_for(0, n_tokens, grain, [&](int64_t begin, int64_t end) {
      constexpr int64_t block = 64;
      const S* row[block];
      for (int64_t n = begin; n < end; n += block) {
        const int64_t m = std::min(block, end - n);
        for (int64_t i = 0; i < m; ++i) row[i] = x + (n + i) * width;
        loop.linear(row, m, weight, width, n_experts, width, logit + n * n_experts, n_experts);
      }
    });
  });
  return logit_NE;
}

struct RouterLinear : torch::autograd::Function<RouterLinear> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x_ND, const Tensor& weight_ED) {
    context->save_for_backward({x_ND, weight_ED});
    return router_logits(x_ND.contiguous(), weight_ED.contiguous());
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& grads) {
    const auto saved = context->get_saved_variables();
    Tensor grad_x_ND, grad_weight_ED;
    if (context->needs_input_grad(0)) grad_x_ND = at::mm(grads[0], saved[1]);
    if (context->needs_input_grad(1)) grad_weight_ED = at::mm(grads[0].t(), saved[0]);
    return {grad_x_ND, grad_weight_ED};
  }
};

}  // namespace

Tensor router_linear(const Tensor& x_ND, const Tensor& weight_ED) {
  require(x_ND.dim() == 2 && weight_ED.dim() == 2 && x_ND.size(1) == weight_ED.size(1),
          "router_linear: x [N, D] and weight [E, D] wanted, got ", x_ND.sizes(), " and ", weight_ED.sizes());
  require(x_ND.scalar_type() == weight_ED.scalar_type(), "router_linear: x and weight must have one type, got ",
          x_ND.scalar_type(), " and ", weight_ED.scalar_type());
  if (!has_loops(x_ND) || !has_loops(weight_ED)) return plain::router_linear(x_ND, weight_ED);
  return RouterLinear::apply(x_ND, weight_ED);
}

namespace plain {

Tensor router_linear(const Tensor& x_ND, const Tensor& weight_ED) {
  return at::linear(x_ND, weight_ED);
}

}  // namespace plain
}  // namespace collegium::kernels
