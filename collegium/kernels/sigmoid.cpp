#include "collegium/kernels/sigmoid.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>

namespace collegium::kernels {
namespace {

template <class S>
void logistic(const S* z, int64_t n, S* out) {
  at::parallel_for(0, n, 8192, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) out[i] = 1 / (1 + std::exp(-z[i]));
  });
}

struct Sigmoid : torch::autograd::Function<Sigmoid> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& z_in) {
    const auto z = z_in.contiguous();
    auto out = at::empty_like(z);
    if (z.scalar_type() == at::kFloat)
      logistic(z.const_data_ptr<float>(), z.numel(), out.mutable_data_ptr<float>());
    else
      logistic(z.const_data_ptr<double>(), z.numel(), out.mutable_data_ptr<double>());
    context->save_for_backward({out});
    return out;
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& grads) {
    const auto out = context->get_saved_variables()[0];
    return {grads[0] * out * (1 - out)};
  }
};

}  // namespace

Tensor sigmoid(const Tensor& z) {
  const bool has_loop = z.is_cpu() && (z.scalar_type() == at::kFloat || z.scalar_type() == at::kDouble);
  return has_loop ? Sigmoid::apply(z) : plain::sigmoid(z);
}

namespace plain {

Tensor sigmoid(const Tensor& z) {
  return at::sigmoid(z);
}

}  // namespace plain
}  // namespace collegium::kernels
