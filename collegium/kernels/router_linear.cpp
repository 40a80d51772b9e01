#include "collegium/kernels/router_linear.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/custom_function.h>

#include "collegium/base/error.h"
#include "collegium/kernels/flops.h"
#include "collegium/kernels/router_blocks.h"
#include "collegium/kernels/sigmoid.h"
#include "collegium/kernels/softmax.h"
#include "collegium/kernels/work.h"

namespace collegium::kernels {
namespace {

// Calls done(first, m) when the logits of m tokens from `first` on are there, still in the cache.
template <class S, class Done>
void logits_of(const Tensor& x_ND, const Tensor& weight_ED, const Tensor& logit_NE, const Done& done) {
  const int64_t width = x_ND.size(1), n_experts = weight_ED.size(0);
  count_flops(2.0 * static_cast<double>(x_ND.numel()) * static_cast<double>(n_experts));
  const S *x = data<S>(x_ND), *weight = data<S>(weight_ED);
  S* logit = mutable_data<S>(logit_NE);
  at::parallel_for(0, x_ND.size(0), router_grain(width, n_experts), [&](int64_t begin, int64_t end) {
    logits_in_blocks(x, weight, width, n_experts, begin, end, logit, done);
  });
}

Tensor router_logits(const Tensor& x_ND, const Tensor& weight_ED) {
  auto logit_NE = fresh({x_ND.size(0), weight_ED.size(0)}, x_ND.options());
  by_element(x_ND.scalar_type(),
             [&]<class S>(std::type_identity<S>) { logits_of<S>(x_ND, weight_ED, logit_NE, [](int64_t, int64_t) {}); });
  return logit_NE;
}

template <class C>
void logits_and_scores(const Tensor& x_ND, const Tensor& weight_ED, ScoreFunction function, RouterScores& out) {
  const int64_t E = weight_ED.size(0);
  const C* logit = data<C>(out.logit_NE);
  C* score = mutable_data<C>(out.score_NE);
  const auto& loop = score_loops<C>();
  logits_of<C>(x_ND, weight_ED, out.logit_NE, [&](int64_t first, int64_t m) {
    if (function == ScoreFunction::sigmoid) return loop.logistic(logit + first * E, m * E, score + first * E);
    for (int64_t n = first; n < first + m; ++n) loop.softmax(logit + n * E, E, score + n * E);
  });
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

void check_router_linear(const Tensor& x_ND, const Tensor& weight_ED) {
  require(x_ND.dim() == 2 && weight_ED.dim() == 2 && x_ND.size(1) == weight_ED.size(1),
          "router_linear: x [N, D] and weight [E, D] wanted, got ", x_ND.sizes(), " and ", weight_ED.sizes());
  require(x_ND.scalar_type() == weight_ED.scalar_type(), "router_linear: x and weight must have one type, got ",
          x_ND.scalar_type(), " and ", weight_ED.scalar_type());
}

Tensor function_of(const Tensor& logit_NE, ScoreFunction function) {
  return function == ScoreFunction::softmax ? kernels::softmax(logit_NE) : kernels::sigmoid(logit_NE);
}

}  // namespace

Tensor router_linear(const Tensor& x_ND, const Tensor& weight_ED) {
  check_router_linear(x_ND, weight_ED);
  if (!has_loops(x_ND) || !has_loops(weight_ED)) return plain::router_linear(x_ND, weight_ED);
  return RouterLinear::apply(x_ND, weight_ED);
}

RouterScores router_scores(const Tensor& x_ND, const Tensor& weight_ED, ScoreFunction function) {
  check_router_linear(x_ND, weight_ED);
  const bool is_plain = !has_loops(x_ND) || !has_loops(weight_ED) || x_ND.scalar_type() == at::kBFloat16;
  const bool is_learning = at::GradMode::is_enabled() && (x_ND.requires_grad() || weight_ED.requires_grad());
  if (is_plain || is_learning || weight_ED.size(0) == 0) {
    auto logit_NE = router_linear(x_ND, weight_ED);
    return {logit_NE, function_of(logit_NE, function)};
  }
  const auto x = x_ND.detach().contiguous(), weight = weight_ED.detach().contiguous();
  RouterScores out{fresh({x.size(0), weight.size(0)}, x.options()), fresh({x.size(0), weight.size(0)}, x.options())};
  x.scalar_type() == at::kFloat ? logits_and_scores<float>(x, weight, function, out)
                                : logits_and_scores<double>(x, weight, function, out);
  return out;
}

namespace plain {

Tensor router_linear(const Tensor& x_ND, const Tensor& weight_ED) {
  return at::linear(x_ND, weight_ED);
}

RouterScores router_scores(const Tensor& x_ND, const Tensor& weight_ED, ScoreFunction function) {
  const auto logit_NE = router_linear(x_ND, weight_ED);
  return {logit_NE, function == ScoreFunction::softmax ? plain::softmax(logit_NE) : plain::sigmoid(logit_NE)};
}

}  // namespace plain
}  // namespace collegium::kernels
