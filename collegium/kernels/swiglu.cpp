#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "collegium/kernels/experts.h"
#include "collegium/kernels/products.h"

namespace collegium::kernels {
namespace {

constexpr int64_t swiglu_grain(int64_t width) {
  return 1 + 8192 / (1 + width);
}

struct Swiglu : torch::autograd::Function<Swiglu> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& h_in) {
    const auto h_RH = h_in.contiguous();
    context->save_for_backward({h_RH});
    const int64_t n_rows = h_RH.size(0), half = h_RH.size(1) / 2;
    auto out_RI = fresh({n_rows, half}, h_RH.options());
    by_element(h_RH.scalar_type(), [&]<class S>(std::type_identity<S>) {
      const S* h = data<S>(h_RH);
      S* out = mutable_data<S>(out_RI);
      at::parallel_for(0, n_rows, swiglu_grain(half), [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) {
          const S* row = h + r * 2 * half;
          loops<S>().swiglu.forward(row, row + half, half, out + r * half);
        }
      });
    });
    return out_RI;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& grads) {
    refuse_second_derivative("swiglu");
    const auto h_RH = context->get_saved_variables()[0];
    const auto grad_RI = grads[0].contiguous();
    const int64_t n_rows = h_RH.size(0), half = h_RH.size(1) / 2;
    auto grad_h_RH = fresh(h_RH.sizes(), h_RH.options());
    by_element(h_RH.scalar_type(), [&]<class S>(std::type_identity<S>) {
      const S *h = data<S>(h_RH), *grad = data<S>(grad_RI);
      S* grad_h = mutable_data<S>(grad_h_RH);
      at::parallel_for(0, n_rows, swiglu_grain(half), [&](int64_t begin, int64_t end) {
        const Scratch<Wide<S>> wide(half);
        for (int64_t r = begin; r < end; ++r) {
          const S* row = h + r * 2 * half;
          S* to = grad_h + r * 2 * half;
          loops<S>().widen(grad + r * half, half, wide.get());
          loops<S>().swiglu.backward(row, row + half, wide.get(), 1, half, to, to + half, nullptr);
        }
      });
    });
    return {grad_h_RH};
  }
};

}  // namespace

Tensor swiglu(const Tensor& h_RH) {
  require(h_RH.dim() == 2 && h_RH.size(1) % 2 == 0, "swiglu: h [R, 2 I] wanted, got ", h_RH.sizes());
  if (!has_loops(h_RH)) return plain::swiglu(h_RH);
  return Swiglu::apply(h_RH);
}

}  // namespace collegium::kernels
