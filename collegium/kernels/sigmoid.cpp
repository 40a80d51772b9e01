#include "collegium/kernels/sigmoid.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "collegium/kernels/work.h"

namespace collegium::kernels {
namespace {

template <class C>
void logistic_of_all(const Tensor& z, const Tensor& out) {
  const C* in = data<C>(z);
  C* to = mutable_data<C>(out);
  at::parallel_for(0, z.numel(), 16384,
                   [&](int64_t begin, int64_t end) { score_loops<C>().logistic(in + begin, end - begin, to + begin); });
}

struct Sigmoid : torch::autograd::Function<Sigmoid> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& z_in) {
    const auto z = z_in.contiguous();
    auto out = fresh(z.sizes(), z.options());
    z.scalar_type() == at::kFloat ? logistic_of_all<float>(z, out) : logistic_of_all<double>(z, out);
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
