// The fused experts: gather, first matrix, activation, second matrix, gate and sum in one autograd function.
//
// With y_r = gate_r W2 a_r and a_r = act(W1 x_r), the backward pass needs one product q_r = W2^T dy_r: it gives
// dgate_r = <q_r, a_r> and da_r = gate_r q_r, so that neither y nor a is kept.
//
// Legend: as in experts.h; P parts of the pre-activation, H = P I.
#include "collegium/kernels/experts.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

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
  const auto& loop = loops<S>();
  const auto& act = loop.of(activation);
  const auto blocks = cut_rows(experts.offset, experts.n, rows_per_task, is.hidden, 16);
  run_tasks(static_cast<int64_t>(blocks.size()), [&] {
    return [&, scratch = Scratch<S>(h_RH ? 0 : rows_per_task * is.parts * is.hidden)](int64_t i) {
      const Block& b = blocks[static_cast<size_t>(i)];
      const int64_t stride = is.parts * is.hidden;
      S* h = h_RH ? h_RH + b.row * stride : scratch.get();
      for (int64_t p = 0; p < is.parts; ++p) {
        const int64_t column = p * is.hidden + b.column;
        loop.linear(x_rows.data() + b.row, b.n_rows, first + (b.expert * stride + column) * is.width, is.width,
                    b.n_columns, is.width, h + column, stride);
      }
      for (int64_t r = 0; r < b.n_rows; ++r) {
        const S* row = h + r * stride + b.column;
        act.forward(row, is.parts > 1 ? row + is.hidden : nullptr, b.n_columns,
                    a_RI + (b.row + r) * is.hidden + b.column);
      }
    };
  });
}

struct FusedExperts : torch::autograd::Function<FusedExperts> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x_in, const Tensor& gate_in,
                        const Tensor& token_R, const Tensor& offset_E1, const Tensor& first_in, const Tensor& second_in,
                        int64_t activation_number, bool keep) {
    const auto activation = static_cast<Activation>(activation_number);
    const auto x_ND = x_in.contiguous(), first_EHD = first_in.contiguous(), second_EDI = second_in.contiguous();
    const auto gate_R = gate_in.to(wide_type(x_ND.scalar_type())).contiguous();
    const auto is = expert_shape(x_ND, token_R, second_EDI, parts_of(activation));
    const auto h_RH = keep ? fresh({is.n_rows, is.parts * is.hidden}, x_ND.options()) : Tensor();
    auto out_ND = fresh(x_ND.sizes(), x_ND.options());
    by_element(x_ND.scalar_type(), [&]<class S>(std::type_identity<S>) {
      const auto* token = token_R.const_data_ptr<int64_t>();
      const Experts experts{offset_E1.const_data_ptr<int64_t>(), is.n_experts};
      const Scratch<S> a_RI(is.n_rows * is.hidden);
      const Scratch<Wide<S>> y_RD(is.n_rows * is.width);
      first_half(is, activation, row_pointers(data<S>(x_ND), is.width, token, is.n_rows), experts, data<S>(first_EHD),
                 keep ? mutable_data<S>(h_RH) : nullptr, a_RI.get());
      product_linear(row_pointers<S>(a_RI.get(), is.hidden, nullptr, is.n_rows), experts, data<S>(second_EDI), is.width,
                     is.hidden, y_RD.get());
      sum_rows<S>(rows_by_token(token, is.n_rows, is.n_tokens), is.n_tokens, y_RD.get(), data<Wide<S>>(gate_R),
                  is.width, mutable_data<S>(out_ND));
    });
    if (keep) context->save_for_backward({x_ND, gate_R, token_R, offset_E1, first_EHD, second_EDI, h_RH});
    context->saved_data["activation"] = activation_number;
    return out_ND;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& grads) {
    const auto activation = static_cast<Activation>(context->saved_data["activation"].toInt());
    refuse_second_derivative(activation == Activation::swiglu ? "swiglu_experts" : "gelu_experts");
    const auto saved = context->get_saved_variables();
    const auto &x_ND = saved[0], &gate_R = saved[1], &token_R = saved[2], &offset_E1 = saved[3], &first_EHD = saved[4],
               &second_EDI = saved[5], &h_RH = saved[6];
    const auto grad_ND = grads[0].contiguous();
    const auto is = expert_shape(x_ND, token_R, second_EDI, parts_of(activation));
    const auto made_if = [&](size_t input, const Tensor& like) {
      return context->needs_input_grad(input) ? fresh(like.sizes(), like.options()) : Tensor();
    };
    const Tensor grad_x_ND = made_if(0, x_ND), grad_gate_R = made_if(1, gate_R), grad_first_EHD = made_if(4, first_EHD),
                 grad_second_EDI = made_if(5, second_EDI);

    by_element(x_ND.scalar_type(), [&]<class S>(std::type_identity<S>) {
      using W = Wide<S>;
      const auto* token = token_R.const_data_ptr<int64_t>();
      const Experts experts{offset_E1.const_data_ptr<int64_t>(), is.n_experts};
      const int64_t stride = is.parts * is.hidden;
      const auto grad_rows = row_pointers(data<S>(grad_ND), is.width, token, is.n_rows);

      const Scratch<W> q_RI(is.n_rows * is.hidden);
      product_times(grad_rows, experts, data<S>(second_EDI), is.hidden, is.width, q_RI.get());

      const bool needs_h = grad_x_ND.defined() || grad_first_EHD.defined();
      const Scratch<S> grad_h_RH(needs_h ? is.n_rows * stride : 0);
      const Scratch<S> gated_RI(grad_second_EDI.defined() ? is.n_rows * is.hidden : 0);
      through_activation<S>(is, activation, data<S>(h_RH), q_RI.get(), data<W>(gate_R),
                            needs_h ? grad_h_RH.get() : nullptr, grad_second_EDI.defined() ? gated_RI.get() : nullptr,
                            grad_gate_R.defined() ? mutable_data<W>(grad_gate_R) : nullptr);

      const auto grad_h_rows = row_pointers<S>(grad_h_RH.get(), stride, nullptr, is.n_rows);
      if (grad_x_ND.defined()) {
        const Scratch<W> grad_x_RD(is.n_rows * is.width);
        product_times(grad_h_rows, experts, data<S>(first_EHD), is.width, stride, grad_x_RD.get());
        sum_rows<S>(rows_by_token(token, is.n_rows, is.n_tokens), is.n_tokens, grad_x_RD.get(), nullptr, is.width,
                    mutable_data<S>(grad_x_ND));
      }
      if (grad_first_EHD.defined())
        product_outer(grad_h_rows, stride, row_pointers(data<S>(x_ND), is.width, token, is.n_rows), is.width, experts,
                      mutable_data<S>(grad_first_EHD));
      if (grad_second_EDI.defined())
        product_outer(grad_rows, is.width, row_pointers<S>(gated_RI.get(), is.hidden, nullptr, is.n_rows), is.hidden,
                      experts, mutable_data<S>(grad_second_EDI));
    });
    return {grad_x_ND, grad_gate_R, Tensor(), Tensor(), grad_first_EHD, grad_second_EDI, Tensor(), Tensor()};
  }

 private:
  template <class S>
  static void through_activation(const ExpertShape& is, Activation activation, const S* h, const Wide<S>* q,
                                 const Wide<S>* gate, S* grad_h, S* gated, Wide<S>* grad_gate) {
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
};

Tensor fused_experts(const char* who, Activation activation, const Tensor& x_ND, const Tensor& gate_R,
                     const Tensor& token_R, const Tensor& offset_E1, const Tensor& first_EHD,
                     const Tensor& second_EDI) {
  const bool keep = at::GradMode::is_enabled() && (x_ND.requires_grad() || gate_R.requires_grad() ||
                                                   first_EHD.requires_grad() || second_EDI.requires_grad());
  require(x_ND.dim() == 2 && first_EHD.dim() == 3 && second_EDI.dim() == 3, who,
          ": x [N, D], first weight [E, H, D] and second weight [E, D, I] wanted, got ", x_ND.sizes(), ", ",
          first_EHD.sizes(), " and ", second_EDI.sizes());
  require(first_EHD.size(0) == second_EDI.size(0) && first_EHD.size(2) == x_ND.size(1) &&
              second_EDI.size(1) == x_ND.size(1) && first_EHD.size(1) == parts_of(activation) * second_EDI.size(2),
          who, ": weights [E, ", parts_of(activation) == 2 ? "2 I" : "I", ", D] and [E, D, I] for x ", x_ND.sizes(),
          " wanted, got ", first_EHD.sizes(), " and ", second_EDI.sizes());
  require(gate_R.dim() == 1 && gate_R.sizes() == token_R.sizes(), who, ": gate [R] and token [R] wanted, got ",
          gate_R.sizes(), " and ", token_R.sizes());
  check_same(who, x_ND, first_EHD);
  check_same(who, x_ND, second_EDI);
  check_gate(who, gate_R, x_ND);
  check_token(who, token_R, x_ND.size(0));
  check_offset(who, offset_E1, first_EHD.size(0), token_R.size(0));
  return FusedExperts::apply(x_ND, gate_R, token_R.contiguous(), offset_E1, first_EHD, second_EDI,
                             static_cast<int64_t>(activation), keep);
}

}  // namespace

Tensor swiglu_experts(const Tensor& x_ND, const Tensor& gate_R, const Tensor& token_R, const Tensor& offset_E1,
                      const Tensor& gate_up_EHD, const Tensor& down_EDI) {
  if (!has_loops(x_ND)) return plain::swiglu_experts(x_ND, gate_R, token_R, offset_E1, gate_up_EHD, down_EDI);
  return fused_experts("swiglu_experts", Activation::swiglu, x_ND, gate_R, token_R, offset_E1, gate_up_EHD, down_EDI);
}

Tensor gelu_experts(const Tensor& x_ND, const Tensor& gate_R, const Tensor& token_R, const Tensor& offset_E1,
                    const Tensor& up_EID, const Tensor& down_EDI) {
  if (!has_loops(x_ND)) return plain::gelu_experts(x_ND, gate_R, token_R, offset_E1, up_EID, down_EDI);
  return fused_experts("gelu_experts", Activation::gelu, x_ND, gate_R, token_R, offset_E1, up_EID, down_EDI);
}

}  // namespace collegium::kernels
