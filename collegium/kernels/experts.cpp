// The fused experts: gather, first matrix, activation, second matrix, gate and sum in one autograd function.
//
// With y_r = gate_r W2 a_r and a_r = act(W1 x_r), the backward pass needs one product q_r = W2^T dy_r: it gives
// dgate_r = <q_r, a_r> and da_r = gate_r q_r, so that neither y nor a is kept.
//
// Legend: as in experts.h; P parts of the pre-activation, H = P I.
#include "collegium/kernels/experts.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "collegium/kernels/experts_passes.h"
#include "collegium/kernels/experts_torch.h"
#include "collegium/kernels/grouped_mm.h"
#include "collegium/kernels/products.h"

namespace collegium::kernels {
namespace {

struct ExpertShape {
  int64_t n_tokens, width, n_rows, n_experts, hidden, parts;
};

ExpertShape expert_shape(const Tensor& x_ND, const Tensor& token_R, const Tensor& second_EDI, int64_t parts) {
  return {x_ND.size(0), x_ND.size(1), token_R.size(0), second_EDI.size(0), second_EDI.size(2), parts};
}

// a_RI = act(W1 x). The pre-activations go to h_RH, or when that is null into a block that only this task sees.
template <class S>
void first_half(const ExpertShape& is, Activation activation, const Rows<S>& x_rows, const Experts& experts,
                const S* first, S* h_RH, S* a_RI) {
  count_product(is.n_rows, is.width, is.parts * is.hidden);
  const auto& loop = loops<S>();
  const auto& act = loop.of(activation);
  const auto blocks = cut_rows(experts.offset, experts.n, loop.rows_per_task, is.hidden, loop.panel);
  run_tasks(static_cast<int64_t>(blocks.size()), [&] {
    return [&, kept = Scratch<S>(h_RH ? 0 : loop.rows_per_task * is.parts * is.hidden),
            scratch = Scratch<Wide<S>>(loop.linear_scratch(is.width))](int64_t i) {
      const Block& b = blocks[static_cast<size_t>(i)];
      const int64_t stride = is.parts * is.hidden;
      S* h = h_RH ? h_RH + b.row * stride : kept.get();
      for (int64_t p = 0; p < is.parts; ++p) {
        const int64_t column = p * is.hidden + b.column;
        loop.linear(x_rows.data() + b.row, b.n_rows, first + (b.expert * stride + column) * is.width, is.width,
                    b.n_columns, is.width, h + column, stride, scratch.get());
      }
      for (int64_t r = 0; r < b.n_rows; ++r) {
        const S* row = h + r * stride + b.column;
        act.forward(row, is.parts > 1 ? row + is.hidden : nullptr, b.n_columns,
                    a_RI + (b.row + r) * is.hidden + b.column);
      }
    };
  });
}

template <class S>
void through_activation(const ExpertShape& is, Activation activation, const S* h, const Wide<S>* q, const Wide<S>* gate,
                        S* grad_h, S* gated, Wide<S>* grad_gate) {
  const auto& act = loops<S>().of(activation);
  const bool is_gated = is.parts > 1;
  at::parallel_for(0, is.n_rows, 1 + 8192 / (1 + is.hidden), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const S* row = h + r * is.parts * is.hidden;
      S* to = grad_h ? grad_h + r * is.parts * is.hidden : nullptr;
      const auto sum =
          act.backward(row, is_gated ? row + is.hidden : nullptr, q + r * is.hidden, gate[r], is.hidden, to,
                       to && is_gated ? to + is.hidden : nullptr, gated ? gated + r * is.hidden : nullptr);
      if (grad_gate) grad_gate[r] = sum;
    }
  });
}

Activation activation_of(ExpertKind kind) {
  return kind == ExpertKind::swiglu ? Activation::swiglu : Activation::gelu;
}

const char* name_of(ExpertKind kind) {
  return kind == ExpertKind::swiglu ? "swiglu_experts" : "gelu_experts";
}

void check_call(const ExpertsCall& call) {
  const auto* who = name_of(call.kind);
  check_weights(call);
  require(call.gate_R.dim() == 1 && call.gate_R.sizes() == call.token_R.sizes(), who,
          ": gate [R] and token [R] wanted, got ", call.gate_R.sizes(), " and ", call.token_R.sizes());
  check_gate(who, call.gate_R, call.x_ND);
  check_token(who, call.token_R, call.x_ND.size(0));
  check_offset(who, call.offset_E1, call.first_EHD.size(0), call.token_R.size(0));
}

// The same tensors as the loops want them: dense rows, gates in the type of sums.
ExpertsCall dense(const ExpertsCall& call) {
  return {call.kind,
          call.x_ND.contiguous(),
          call.gate_R.to(wide_type(call.x_ND.scalar_type())).contiguous(),
          call.token_R.contiguous(),
          call.offset_E1,
          call.first_EHD.contiguous(),
          call.second_EDI.contiguous(),
          call.place_A,
          call.gate_A};
}

std::unique_ptr<GroupedProducts> torch_products(const ExpertsCall& call) {
  if (!uses_grouped_mm(call.x_ND, call.second_EDI)) return looped_products(call.offset_E1);
  return torch_grouped_products(call.offset_E1.slice(0, 1).to(call.x_ND.device(), at::kInt));
}

ExpertsResult forward_pass(const ExpertsCall& call, bool keep) {
  if (!has_loops(call.x_ND)) return torch_experts_forward(*torch_products(call), call, keep);
  const auto activation = activation_of(call.kind);
  const auto is = expert_shape(call.x_ND, call.token_R, call.second_EDI, parts_of(activation));
  ExpertsResult out;
  if (keep) out.pre_RH = fresh({is.n_rows, is.parts * is.hidden}, call.x_ND.options());
  out.out_ND = fresh(call.x_ND.sizes(), call.x_ND.options());
  by_element(call.x_ND.scalar_type(), [&]<class S>(std::type_identity<S>) {
    const auto* token = call.token_R.const_data_ptr<int64_t>();
    const Experts experts{call.offset_E1.const_data_ptr<int64_t>(), is.n_experts};
    const Scratch<S> a_RI(is.n_rows * is.hidden);
    const Scratch<Wide<S>> y_RD(is.n_rows * is.width);
    first_half(is, activation, row_pointers(data<S>(call.x_ND), is.width, token, is.n_rows), experts,
               data<S>(call.first_EHD), keep ? mutable_data<S>(out.pre_RH) : nullptr, a_RI.get());
    product_linear(row_pointers<S>(a_RI.get(), is.hidden, nullptr, is.n_rows), experts, data<S>(call.second_EDI),
                   is.width, is.hidden, y_RD.get());
    sum_rows<S>(rows_by_token(token, is.n_rows, is.n_tokens), is.n_tokens, y_RD.get(), data<Wide<S>>(call.gate_R),
                is.width, mutable_data<S>(out.out_ND));
  });
  return out;
}

struct FusedExperts : torch::autograd::Function<FusedExperts> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x_ND, const Tensor& gate_R,
                        const Tensor& token_R, const Tensor& offset_E1, const Tensor& first_EHD,
                        const Tensor& second_EDI, int64_t kind, bool keep) {
    const auto call = dense({static_cast<ExpertKind>(kind), x_ND, gate_R, token_R, offset_E1, first_EHD, second_EDI});
    auto result = forward_pass(call, keep);
    if (keep)
      context->save_for_backward(
          {call.x_ND, call.gate_R, call.token_R, call.offset_E1, call.first_EHD, call.second_EDI, result.pre_RH});
    context->saved_data["kind"] = kind;
    return result.out_ND;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& grads) {
    const auto kind = static_cast<ExpertKind>(context->saved_data["kind"].toInt());
    refuse_second_derivative(name_of(kind));
    const auto saved = context->get_saved_variables();
    const auto out =
        experts_backward({kind, saved[0], saved[1], saved[2], saved[3], saved[4], saved[5]}, saved[6], grads[0],
                         {context->needs_input_grad(0), context->needs_input_grad(1), context->needs_input_grad(4),
                          context->needs_input_grad(5)});
    return {out.x_ND, out.gate_R, Tensor(), Tensor(), out.first_EHD, out.second_EDI, Tensor(), Tensor()};
  }
};

Tensor fused_experts(const ExpertsCall& call) {
  const bool keep = at::GradMode::is_enabled() && (call.x_ND.requires_grad() || call.gate_R.requires_grad() ||
                                                   call.first_EHD.requires_grad() || call.second_EDI.requires_grad());
  return FusedExperts::apply(call.x_ND, call.gate_R, call.token_R, call.offset_E1, call.first_EHD, call.second_EDI,
                             static_cast<int64_t>(call.kind), keep);
}

// Passes of ours, in loops or in torch's products, or the plain version for the processor's other types.
template <class Plain>
Tensor experts_by(const ExpertsCall& call, const Plain& plain) {
  check_call(call);
  if (has_passes(call.x_ND)) return fused_experts(call);
  return plain(call.x_ND, call.gate_R, call.token_R, call.offset_E1, call.first_EHD, call.second_EDI);
}

}  // namespace

void check_weights(const ExpertsCall& call) {
  const auto* who = name_of(call.kind);
  const auto parts = parts_of(activation_of(call.kind));
  const auto &x_ND = call.x_ND, &first_EHD = call.first_EHD, &second_EDI = call.second_EDI;
  require(x_ND.dim() == 2 && first_EHD.dim() == 3 && second_EDI.dim() == 3, who,
          ": x [N, D], first weight [E, H, D] and second weight [E, D, I] wanted, got ", x_ND.sizes(), ", ",
          first_EHD.sizes(), " and ", second_EDI.sizes());
  require(first_EHD.size(0) == second_EDI.size(0) && first_EHD.size(2) == x_ND.size(1) &&
              second_EDI.size(1) == x_ND.size(1) && first_EHD.size(1) == parts * second_EDI.size(2),
          who, ": weights [E, ", parts == 2 ? "2 I" : "I", ", D] and [E, D, I] for x ", x_ND.sizes(), " wanted, got ",
          first_EHD.sizes(), " and ", second_EDI.sizes());
  check_same(who, x_ND, first_EHD);
  check_same(who, x_ND, second_EDI);
}

ExpertsResult experts_forward(const ExpertsCall& call, bool keep) {
  check_call(call);
  return forward_pass(dense(call), keep);
}

ExpertsGradients experts_backward(const ExpertsCall& given, const Tensor& pre_RH, const Tensor& grad_given_ND,
                                  const std::array<bool, 4>& wanted) {
  const auto call = dense(given);
  const auto activation = activation_of(call.kind);
  const auto is = expert_shape(call.x_ND, call.token_R, call.second_EDI, parts_of(activation));
  const auto h_RH = pre_RH.contiguous(), grad_ND = grad_given_ND.contiguous();
  require(h_RH.dim() == 2 && h_RH.size(0) == is.n_rows && h_RH.size(1) == is.parts * is.hidden &&
              grad_ND.sizes() == call.x_ND.sizes(),
          name_of(call.kind), ": pre-activations [R, H] and a gradient of x's shape wanted, got ", h_RH.sizes(),
          " and ", grad_ND.sizes());
  if (!has_loops(call.x_ND)) return torch_experts_backward(*torch_products(call), call, h_RH, grad_ND, wanted);
  const auto made_if = [&](size_t input, const Tensor& like) {
    return wanted[input] ? fresh(like.sizes(), like.options()) : Tensor();
  };
  const ExpertsGradients out{made_if(0, call.x_ND), made_if(1, call.gate_R), made_if(2, call.first_EHD),
                             made_if(3, call.second_EDI)};

  by_element(call.x_ND.scalar_type(), [&]<class S>(std::type_identity<S>) {
    using W = Wide<S>;
    const auto* token = call.token_R.const_data_ptr<int64_t>();
    const Experts experts{call.offset_E1.const_data_ptr<int64_t>(), is.n_experts};
    const int64_t stride = is.parts * is.hidden;
    const auto grad_rows = row_pointers(data<S>(grad_ND), is.width, token, is.n_rows);

    const Scratch<W> q_RI(is.n_rows * is.hidden);
    product_times(grad_rows, experts, data<S>(call.second_EDI), is.hidden, is.width, q_RI.get());

    const bool needs_h = out.x_ND.defined() || out.first_EHD.defined();
    const Scratch<S> grad_h_RH(needs_h ? is.n_rows * stride : 0);
    const Scratch<S> gated_RI(out.second_EDI.defined() ? is.n_rows * is.hidden : 0);
    through_activation<S>(is, activation, data<S>(h_RH), q_RI.get(), data<W>(call.gate_R),
                          needs_h ? grad_h_RH.get() : nullptr, out.second_EDI.defined() ? gated_RI.get() : nullptr,
                          out.gate_R.defined() ? mutable_data<W>(out.gate_R) : nullptr);

    const auto grad_h_rows = row_pointers<S>(grad_h_RH.get(), stride, nullptr, is.n_rows);
    if (out.x_ND.defined()) {
      const Scratch<W> grad_x_RD(is.n_rows * is.width);
      product_times(grad_h_rows, experts, data<S>(call.first_EHD), is.width, stride, grad_x_RD.get());
      sum_rows<S>(rows_by_token(token, is.n_rows, is.n_tokens), is.n_tokens, grad_x_RD.get(), nullptr, is.width,
                  mutable_data<S>(out.x_ND));
    }
    if (out.first_EHD.defined())
      product_outer(grad_h_rows, stride, row_pointers(data<S>(call.x_ND), is.width, token, is.n_rows), is.width,
                    experts, mutable_data<S>(out.first_EHD));
    if (out.second_EDI.defined())
      product_outer(grad_rows, is.width, row_pointers<S>(gated_RI.get(), is.hidden, nullptr, is.n_rows), is.hidden,
                    experts, mutable_data<S>(out.second_EDI));
  });
  return out;
}

Tensor swiglu_experts(const Tensor& x_ND, const Tensor& gate_R, const Tensor& token_R, const Tensor& offset_E1,
                      const Tensor& gate_up_EHD, const Tensor& down_EDI) {
  return experts_by({ExpertKind::swiglu, x_ND, gate_R, token_R, offset_E1, gate_up_EHD, down_EDI},
                    plain::swiglu_experts);
}

Tensor gelu_experts(const Tensor& x_ND, const Tensor& gate_R, const Tensor& token_R, const Tensor& offset_E1,
                    const Tensor& up_EID, const Tensor& down_EDI) {
  return experts_by({ExpertKind::gelu, x_ND, gate_R, token_R, offset_E1, up_EID, down_EDI}, plain::gelu_experts);
}

}  // namespace collegium::kernels
