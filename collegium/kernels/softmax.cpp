#include "collegium/kernels/softmax.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "collegium/kernels/work.h"

namespace collegium::kernels {
namespace {

// Calls row(loops, n) for every row, over threads.
template <class C, class Row>
void for_each_row(const Tensor& logit_NE, const Row& row) {
  const auto& loop = score_loops<C>();
  at::parallel_for(0, logit_NE.size(0), 1 + 16384 / (1 + logit_NE.size(1)), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) row(loop, n);
  });
}

template <class C>
void softmax_rows(const Tensor& logit_NE, const Tensor& out_NE) {
  const int64_t E = logit_NE.size(1);
  const C* in = data<C>(logit_NE);
  C* out = mutable_data<C>(out_NE);
  for_each_row<C>(logit_NE, [=](const auto& loop, int64_t n) { loop.softmax(in + n * E, E, out + n * E); });
}

template <class C>
void log_sum_exp_rows(const Tensor& logit_NE, const Tensor& out_N) {
  const int64_t E = logit_NE.size(1);
  const C* in = data<C>(logit_NE);
  C* out = mutable_data<C>(out_N);
  for_each_row<C>(logit_NE, [=](const auto& loop, int64_t n) { out[n] = loop.log_sum_exp(in + n * E, E); });
}

struct Softmax : torch::autograd::Function<Softmax> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& logit_in) {
    const auto logit_NE = logit_in.contiguous();
    auto out_NE = fresh(logit_NE.sizes(), logit_NE.options());
    logit_NE.scalar_type() == at::kFloat ? softmax_rows<float>(logit_NE, out_NE)
                                         : softmax_rows<double>(logit_NE, out_NE);
    context->save_for_backward({out_NE});
    return out_NE;
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& grads) {
    const auto out_NE = context->get_saved_variables()[0];
    return {at::_softmax_backward_data(grads[0], out_NE, -1, out_NE.scalar_type())};
  }
};

struct LogSumExp : torch::autograd::Function<LogSumExp> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& logit_in) {
    const auto logit_NE = logit_in.contiguous();
    auto out_N = fresh({logit_NE.size(0)}, logit_NE.options());
    logit_NE.scalar_type() == at::kFloat ? log_sum_exp_rows<float>(logit_NE, out_N)
                                         : log_sum_exp_rows<double>(logit_NE, out_N);
    context->save_for_backward({logit_in});
    return out_N;
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& grads) {
    return {grads[0].unsqueeze(1) * kernels::softmax(context->get_saved_variables()[0])};
  }
};

bool has_score_loop(const Tensor& logit_NE) {
  const auto type = logit_NE.scalar_type();
  return logit_NE.is_cpu() && logit_NE.dim() == 2 && logit_NE.size(1) > 0 &&
         (type == at::kFloat || type == at::kDouble);
}

}  // namespace

Tensor softmax(const Tensor& logit_NE) {
  return has_score_loop(logit_NE) ? Softmax::apply(logit_NE) : plain::softmax(logit_NE);
}

Tensor log_sum_exp(const Tensor& logit_NE) {
  return has_score_loop(logit_NE) ? LogSumExp::apply(logit_NE) : plain::log_sum_exp(logit_NE);
}

namespace plain {

Tensor softmax(const Tensor& logit_NE) {
  return logit_NE.softmax(-1);
}

Tensor log_sum_exp(const Tensor& logit_NE) {
  return logit_NE.logsumexp({-1});
}

}  // namespace plain
}  // namespace collegium::kernels
