// torch.ops.collegium: the expert kernels as torch operators, with autograd and with shapes for tracing, so that they
// work in any model and under torch.compile.
//
// Legend: N tokens, K choices a token, D model width, E experts, I expert hidden width, R = N K or fewer assignments.
#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/DispatchKeySet.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "collegium/base/error.h"
#include "collegium/kernels/choices.h"
#include "collegium/kernels/cuda_kernels.h"
#include "collegium/kernels/experts_passes.h"
#include "collegium/kernels/experts_torch.h"
#include "collegium/kernels/group.h"
#include "collegium/kernels/grouped_mm.h"
#include "collegium/kernels/work.h"

namespace collegium::python {
namespace {

using at::Tensor;
using kernels::ExpertKind;
using kernels::ExpertsCall;

// torch raises what its own operators would: ValueError with our text, whatever tracer stands between.
template <class F>
auto torch_errors(F&& f) {
  try {
    return f();
  } catch (const Error& error) {
    TORCH_CHECK_VALUE(false, error.what());
  }
}

void check_choices(const Tensor& x_ND, const Tensor& expert_NK, const Tensor& gate_NK) {
  TORCH_CHECK_VALUE(x_ND.dim() == 2, "grouped experts: x must be [N, D], got ", x_ND.sym_sizes());
  TORCH_CHECK_VALUE(expert_NK.dim() == 2 && expert_NK.sym_size(0) == x_ND.sym_size(0),
                    "grouped experts: expert ids [N, K] for x ", x_ND.sym_sizes(), " wanted, got ",
                    expert_NK.sym_sizes());
  TORCH_CHECK_VALUE(expert_NK.scalar_type() == at::kLong || expert_NK.scalar_type() == at::kInt,
                    "grouped experts: expert ids must be int64 or int32, got ", expert_NK.scalar_type());
  TORCH_CHECK_VALUE(gate_NK.sym_sizes() == expert_NK.sym_sizes(), "grouped experts: a gate for each expert id ",
                    expert_NK.sym_sizes(), " wanted, got ", gate_NK.sym_sizes());
}

// Each expert's block of our sorting kernel reads all ids: with more of them torch's radix sort does less.
constexpr int64_t kMostSorted = 512;

struct Work {
  ExpertsCall call;
  Tensor place_R;                                      // where each row stands in the flattened [N K] choices
  std::unique_ptr<kernels::GroupedProducts> products;  // null: the call's offsets say which rows are whose
};

// Choices sorted by expert. Ids at or above the number of experts do no work: they are how expert parallelism marks
// choices that another process carries out.
Work sorted_work(ExpertKind kind, const Tensor& x_ND, const Tensor& expert_NK, const Tensor& gate_NK,
                 const Tensor& first_EHD, const Tensor& second_EDI) {
  kernels::check_weights({kind, x_ND, {}, {}, {}, first_EHD, second_EDI});
  const auto E = first_EHD.size(0), K = expert_NK.size(1);
  if (kernels::has_loops(x_ND) && expert_NK.is_cpu() && gate_NK.is_cpu()) {
    const auto s = kernels::sort_choices(expert_NK, gate_NK, E, kernels::wide_type(x_ND.scalar_type()));
    return {{kind, x_ND, s.gate_R, s.token_R, s.offset_E1, first_EHD, second_EDI}, s.place_R, nullptr};
  }
  const auto given_A = expert_NK.reshape({-1}).to(at::kLong), gate_A = gate_NK.reshape({-1});
  const bool is_grouped = kernels::uses_grouped_mm(x_ND, second_EDI);
  if (is_grouped && E <= kMostSorted && kernels::has_cuda_kernels(x_ND, x_ND.size(1))) {
    const auto s = kernels::cuda_sort_choices(given_A, gate_A, E, K, x_ND);
    return {{kind, x_ND, s.gate_A, s.token_A, {}, first_EHD, second_EDI, s.place_A, gate_A},
            {},
            kernels::torch_grouped_products(s.end_E)};
  }
  const auto id_A = given_A.clamp_max(E);
  if (is_grouped) {
    // Nothing is read from the device: choices that do no work stay, behind the last expert, as rows of nobody.
    const auto [sorted_A, order_A] = at::sort(id_A, /*stable=*/true, /*dim=*/0, /*descending=*/false);
    const auto end_E = at::searchsorted(sorted_A, at::arange(E, id_A.options()), /*out_int32=*/true, /*right=*/true);
    return {{kind,
             x_ND,
             gate_A.index_select(0, order_A),
             order_A.floor_divide(K).masked_fill(sorted_A.ge(E), x_ND.size(0)),
             {},
             first_EHD,
             second_EDI},
            order_A,
            kernels::torch_grouped_products(end_E)};
  }
  const auto grouped = kernels::group_by_expert(id_A, E + 1);
  const auto R = grouped.offset_E1[E].item<int64_t>();
  const auto place_R = grouped.order_R.slice(0, 0, R);
  return {{kind, x_ND, gate_A.index_select(0, place_R), place_R.floor_divide(K), grouped.offset_E1.slice(0, 0, E + 1),
           first_EHD, second_EDI},
          place_R,
          nullptr};
}

std::tuple<Tensor, Tensor> run_forward(const Tensor& x_ND, const Tensor& expert_NK, const Tensor& gate_NK,
                                       const Tensor& first_EHD, const Tensor& second_EDI, int64_t kind, bool keep) {
  return torch_errors([&]() -> std::tuple<Tensor, Tensor> {
    const auto work = sorted_work(static_cast<ExpertKind>(kind), x_ND, expert_NK, gate_NK, first_EHD, second_EDI);
    const auto result = work.products ? kernels::torch_experts_forward(*work.products, work.call, keep)
                                      : kernels::experts_forward(work.call, keep);
    if (!keep) return {result.out_ND, at::empty({0, first_EHD.size(1)}, x_ND.options())};
    // Rows of choices that do no work are at the end, so that the shape is known without the ids.
    const auto missing = expert_NK.numel() - result.pre_RH.size(0);
    if (missing == 0) return {result.out_ND, result.pre_RH};
    return {result.out_ND, at::cat({result.pre_RH, result.pre_RH.new_zeros({missing, first_EHD.size(1)})})};
  });
}

using FourTensors = std::tuple<Tensor, Tensor, Tensor, Tensor>;

FourTensors run_backward(const Tensor& grad_ND, const Tensor& x_ND, const Tensor& expert_NK, const Tensor& gate_NK,
                         const Tensor& first_EHD, const Tensor& second_EDI, const Tensor& pre_AH, int64_t kind,
                         std::array<bool, 4> wanted) {
  return torch_errors([&]() -> FourTensors {
    const auto work = sorted_work(static_cast<ExpertKind>(kind), x_ND, expert_NK, gate_NK, first_EHD, second_EDI);
    const auto pre_RH = pre_AH.slice(0, 0, work.call.token_R.size(0));
    auto out = work.products ? kernels::torch_experts_backward(*work.products, work.call, pre_RH, grad_ND, wanted)
                             : kernels::experts_backward(work.call, pre_RH, grad_ND, wanted);
    const auto or_empty = [&](const Tensor& t) { return t.defined() ? t : at::empty({0}, x_ND.options()); };
    Tensor gate_grad_NK;
    if (wanted[1] && work.call.place_A.defined())
      gate_grad_NK = out.gate_R.index_select(0, work.call.place_A.clamp_min(0))
                         .masked_fill_(work.call.place_A.lt(0), 0)
                         .to(gate_NK.scalar_type())
                         .reshape(gate_NK.sizes());
    else if (wanted[1])
      gate_grad_NK = at::zeros({gate_NK.numel()}, gate_NK.options())
                         .index_copy_(0, work.place_R, out.gate_R.to(gate_NK.scalar_type()))
                         .reshape(gate_NK.sizes());
    return {or_empty(out.x_ND), or_empty(gate_grad_NK), or_empty(out.first_EHD), or_empty(out.second_EDI)};
  });
}

std::tuple<Tensor, Tensor> forward_meta(const Tensor& x_ND, const Tensor& expert_NK, const Tensor&,
                                        const Tensor& first_EHD, const Tensor&, int64_t, bool keep) {
  return {at::empty_like(x_ND, at::MemoryFormat::Contiguous),
          x_ND.new_empty_symint({keep ? expert_NK.sym_numel() : c10::SymInt(0), first_EHD.sym_size(1)})};
}

FourTensors backward_meta(const Tensor&, const Tensor& x_ND, const Tensor&, const Tensor& gate_NK,
                          const Tensor& first_EHD, const Tensor& second_EDI, const Tensor&, int64_t,
                          std::array<bool, 4> wanted) {
  const auto made = [&](size_t i, const Tensor& like) {
    return wanted[i] ? at::empty_like(like, at::MemoryFormat::Contiguous) : x_ND.new_empty({0});
  };
  return {made(0, x_ND), made(1, gate_NK), made(2, first_EHD), made(3, second_EDI)};
}

std::tuple<Tensor, Tensor> call_forward(const Tensor& x_ND, const Tensor& expert_NK, const Tensor& gate_NK,
                                        const Tensor& first_EHD, const Tensor& second_EDI, int64_t kind, bool keep) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("collegium::_experts_forward", "").typed<decltype(run_forward)>();
  return op.call(x_ND, expert_NK, gate_NK, first_EHD, second_EDI, kind, keep);
}

struct ExpertsFunction : torch::autograd::Function<ExpertsFunction> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x_ND, const Tensor& expert_NK,
                        const Tensor& gate_NK, const Tensor& first_EHD, const Tensor& second_EDI, int64_t kind) {
    const at::AutoDispatchBelowADInplaceOrView below;
    const auto [out_ND, pre_AH] = call_forward(x_ND, expert_NK, gate_NK, first_EHD, second_EDI, kind, true);
    context->save_for_backward({x_ND, expert_NK, gate_NK, first_EHD, second_EDI, pre_AH});
    context->saved_data["kind"] = kind;
    return out_ND;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& grads) {
    static const auto op = c10::Dispatcher::singleton()
                               .findSchemaOrThrow("collegium::_experts_backward", "")
                               .typed<decltype(run_backward)>();
    TORCH_CHECK_NOT_IMPLEMENTED(!at::GradMode::is_enabled() || !grads[0].requires_grad(),
                                "grouped experts: no second derivative");
    const auto saved = context->get_saved_variables();
    const std::array<bool, 4> wanted = {context->needs_input_grad(0), context->needs_input_grad(2),
                                        context->needs_input_grad(3), context->needs_input_grad(4)};
    const auto [x, gate, first, second] = op.call(grads[0], saved[0], saved[1], saved[2], saved[3], saved[4], saved[5],
                                                  context->saved_data["kind"].toInt(), wanted);
    const auto if_wanted = [&](size_t i, const Tensor& t) { return wanted[i] ? t : Tensor(); };
    return {if_wanted(0, x), Tensor(), if_wanted(1, gate), if_wanted(2, first), if_wanted(3, second), Tensor()};
  }
};

Tensor experts(ExpertKind kind, const Tensor& x_ND, const Tensor& expert_NK, const Tensor& gate_NK,
               const Tensor& first_EHD, const Tensor& second_EDI) {
  check_choices(x_ND, expert_NK, gate_NK);
  const auto number = static_cast<int64_t>(kind);
  if (at::GradMode::is_enabled() &&
      (x_ND.requires_grad() || gate_NK.requires_grad() || first_EHD.requires_grad() || second_EDI.requires_grad()))
    return ExpertsFunction::apply(x_ND, expert_NK, gate_NK, first_EHD, second_EDI, number);
  const at::AutoDispatchBelowADInplaceOrView below;
  return std::get<0>(call_forward(x_ND, expert_NK, gate_NK, first_EHD, second_EDI, number, false));
}

Tensor grouped_swiglu(const Tensor& x_ND, const Tensor& expert_NK, const Tensor& gate_NK, const Tensor& gate_up_EHD,
                      const Tensor& down_EDI) {
  return experts(ExpertKind::swiglu, x_ND, expert_NK, gate_NK, gate_up_EHD, down_EDI);
}

Tensor grouped_gelu(const Tensor& x_ND, const Tensor& expert_NK, const Tensor& gate_NK, const Tensor& up_EID,
                    const Tensor& down_EDI) {
  return experts(ExpertKind::gelu, x_ND, expert_NK, gate_NK, up_EID, down_EDI);
}

}  // namespace

TORCH_LIBRARY(collegium, library) {
  library.def("grouped_swiglu(Tensor x, Tensor expert, Tensor gate, Tensor gate_up, Tensor down) -> Tensor");
  library.def("grouped_gelu(Tensor x, Tensor expert, Tensor gate, Tensor up, Tensor down) -> Tensor");
  library.def(
      "_experts_forward(Tensor x, Tensor expert, Tensor gate, Tensor first, Tensor second, int kind, bool keep) -> "
      "(Tensor, Tensor)");
  library.def(
      "_experts_backward(Tensor grad, Tensor x, Tensor expert, Tensor gate, Tensor first, Tensor second, Tensor pre, "
      "int kind, bool[4] wanted) -> (Tensor, Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(collegium, CompositeImplicitAutograd, library) {
  library.impl("grouped_swiglu", grouped_swiglu);
  library.impl("grouped_gelu", grouped_gelu);
}

// Every device and type: what runs where is the business of the kernels.
TORCH_LIBRARY_IMPL(collegium, CompositeExplicitAutograd, library) {
  library.impl("_experts_forward", run_forward);
  library.impl("_experts_backward", run_backward);
}

TORCH_LIBRARY_IMPL(collegium, Meta, library) {
  library.impl("_experts_forward", forward_meta);
  library.impl("_experts_backward", backward_meta);
}

}  // namespace collegium::python
