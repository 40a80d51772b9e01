// torch.ops.collegium.linear: y = x weight^T in the loops of the experts, as a torch operator with autograd and with
// shapes for tracing.
//
// Legend: any leading sizes, N their product, D width of x, H width of y.
#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "collegium/kernels/experts_passes.h"
#include "collegium/kernels/work.h"

namespace collegium::python {
namespace {

using at::Tensor;

void check_linear(const Tensor& x, const Tensor& weight_HD) {
  TORCH_CHECK_VALUE(x.dim() >= 1 && weight_HD.dim() == 2 && x.sym_size(-1) == weight_HD.sym_size(1),
                    "linear: x [..., D] and weight [H, D] wanted, got ", x.sym_sizes(), " and ", weight_HD.sym_sizes());
  TORCH_CHECK_VALUE(x.scalar_type() == weight_HD.scalar_type(), "linear: x and weight must have one type, got ",
                    x.scalar_type(), " and ", weight_HD.scalar_type());
}

// Where there are loops of ours; torch's product elsewhere.
bool takes_loops(const Tensor& x, const Tensor& weight_HD) {
  return kernels::has_loops(x) && kernels::has_loops(weight_HD);
}

Tensor all_rows(const Tensor& x_ND) {
  return at::tensor({int64_t{0}, x_ND.size(0)}, at::kLong);
}

at::DimVector with_width(at::IntArrayRef sizes, int64_t width) {
  at::DimVector out(sizes);
  out.back() = width;
  return out;
}

Tensor linear_forward(const Tensor& x, const Tensor& weight_HD) {
  if (!takes_loops(x, weight_HD)) return at::linear(x, weight_HD);
  const auto x_ND = x.reshape({-1, weight_HD.size(1)});
  return kernels::grouped_linear_forward(x_ND, weight_HD.unsqueeze(0), all_rows(x_ND))
      .view(with_width(x.sizes(), weight_HD.size(0)));
}

std::tuple<Tensor, Tensor> linear_backward(const Tensor& grad, const Tensor& x, const Tensor& weight_HD,
                                       std::array<bool, 2> wanted) {
  const auto none = [&] { return at::empty({0}, x.options()); };
  const auto x_ND = x.reshape({-1, weight_HD.size(1)}), grad_NH = grad.reshape({-1, weight_HD.size(0)});
  if (!takes_loops(x, weight_HD))
    return {wanted[0] ? at::mm(grad_NH, weight_HD).view(x.sizes()) : none(),
            wanted[1] ? at::mm(grad_NH.t(), x_ND) : none()};
  const auto out = kernels::grouped_linear_backward(x_ND, weight_HD.unsqueeze(0), all_rows(x_ND), grad_NH, wanted);
  return {wanted[0] ? out.x_RD.view(x.sizes()) : none(), wanted[1] ? out.weight_EHD.squeeze(0) : none()};
}

Tensor linear_forward_meta(const Tensor& x, const Tensor& weight_HD) {
  c10::SymDimVector sizes(x.sym_sizes());
  sizes.back() = weight_HD.sym_size(0);
  return x.new_empty_symint(sizes);
}

std::tuple<Tensor, Tensor> linear_backward_meta(const Tensor&, const Tensor& x, const Tensor& weight_HD,
                                         std::array<bool, 2> wanted) {
  const auto made = [&](bool is_wanted, const Tensor& like) {
    return is_wanted ? at::empty_like(like, at::MemoryFormat::Contiguous) : x.new_empty({0});
  };
  return {made(wanted[0], x), made(wanted[1], weight_HD)};
}

Tensor call_linear(const Tensor& x, const Tensor& weight_HD) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("collegium::_linear_forward", "").typed<decltype(linear_forward)>();
  return op.call(x, weight_HD);
}

struct LinearFunction : torch::autograd::Function<LinearFunction> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x, const Tensor& weight_HD) {
    const at::AutoDispatchBelowADInplaceOrView below;
    context->save_for_backward({x, weight_HD});
    return call_linear(x, weight_HD);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& grads) {
    static const auto op = c10::Dispatcher::singleton()
                               .findSchemaOrThrow("collegium::_linear_backward", "")
                               .typed<decltype(linear_backward)>();
    TORCH_CHECK_NOT_IMPLEMENTED(!at::GradMode::is_enabled() || !grads[0].requires_grad(), "linear: no second derivative");
    const auto saved = context->get_saved_variables();
    const std::array<bool, 2> wanted = {context->needs_input_grad(0), context->needs_input_grad(1)};
    const auto [x, weight] = op.call(grads[0], saved[0], saved[1], wanted);
    return {wanted[0] ? x : Tensor(), wanted[1] ? weight : Tensor()};
  }
};

Tensor linear(const Tensor& x, const Tensor& weight_HD) {
  check_linear(x, weight_HD);
  if (at::GradMode::is_enabled() && (x.requires_grad() || weight_HD.requires_grad()))
    return LinearFunction::apply(x, weight_HD);
  const at::AutoDispatchBelowADInplaceOrView below;
  return call_linear(x, weight_HD);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(collegium, library) {
  library.def("linear(Tensor x, Tensor weight) -> Tensor");
  library.def("_linear_forward(Tensor x, Tensor weight) -> Tensor");
  library.def("_linear_backward(Tensor grad, Tensor x, Tensor weight, bool[2] wanted) -> (Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(collegium, CompositeImplicitAutograd, library) {
  library.impl("linear", linear);
}

// Every device and type: what runs where is the business of the kernels.
TORCH_LIBRARY_IMPL(collegium, CompositeExplicitAutograd, library) {
  library.impl("_linear_forward", linear_forward);
  library.impl("_linear_backward", linear_backward);
}

TORCH_LIBRARY_IMPL(collegium, Meta, library) {
  library.impl("_linear_forward", linear_forward_meta);
  library.impl("_linear_backward", linear_backward_meta);
}

}  // namespace collegium::python
