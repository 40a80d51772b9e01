// Three loops over the pairs: inner products, sums by token, sums by expert. The first two are each other's backward
// pass by the tokens, the third is the backward pass of both by the weight.
#include "collegium/kernels/pairs.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "collegium/kernels/products.h"
#include "collegium/kernels/token_sums.h"

namespace collegium::kernels {
namespace {

// Calls f(expert, first pair, end) for the experts of pairs [begin, end), each expert's part.
template <class F>
void for_experts(const Experts& experts, int64_t begin, int64_t end, const F& f) {
  const auto* first = std::upper_bound(experts.offset, experts.offset + experts.n + 1, begin);
  for (int64_t e = first - experts.offset - 1; e < experts.n && experts.offset[e] < end; ++e) {
    const auto from = std::max(begin, experts.offset[e]), to = std::min(end, experts.offset[e + 1]);
    if (from < to) f(e, from, to);
  }
}

// out[r] = <x[token[r]], weight[expert of r]>. From three rows on, `inner_rows` reads the weight's row once for four
// of them.
template <class S>
void products(const S* x, const S* weight, const int64_t* token, int64_t n_pairs, const Experts& experts, int64_t width,
              Wide<S>* out) {
  const auto& loop = loops<S>();
  const auto rows = row_pointers(x, width, token, n_pairs);
  const int64_t pairs = std::clamp<int64_t>(262144 / (1 + width), 16, 4096);
  run_tasks((n_pairs + pairs - 1) / pairs, [&] {
    return [&](int64_t task) {
      for_experts(experts, task * pairs, std::min(n_pairs, (task + 1) * pairs), [&](int64_t e, int64_t r, int64_t end) {
        const S* w = weight + e * width;
        if (end - r >= 3) return loop.inner_rows(rows.data() + r, end - r, w, width, out + r);
        for (; r < end; ++r) out[r] = loop.inner(rows[static_cast<size_t>(r)], w, width);
      });
    };
  });
}

// out[n] = sum of factor[r] weight[expert of r] over token n's pairs. A task owns a range of tokens and walks all
// pairs, so no two tasks write a row and every sum has the experts' order.
template <class S>
void sums_by_token(const Wide<S>* factor, const S* weight, const int64_t* token, const Experts& experts,
                   int64_t n_tokens, int64_t width, S* out) {
  using W = Wide<S>;
  const auto& loop = loops<S>();
  const int64_t n_blocks = std::min<int64_t>(n_tokens, at::get_num_threads());
  run_tasks(n_blocks, [&] {
    return [&](int64_t block) {
      const int64_t first = n_tokens * block / n_blocks, end = n_tokens * (block + 1) / n_blocks;
      const Scratch<W> wide(std::is_same_v<S, W> ? 0 : (end - first) * width);
      W* sum = wide.get();
      if constexpr (std::is_same_v<S, W>) sum = out + first * width;
      std::memset(sum, 0, static_cast<size_t>((end - first) * width) * sizeof(W));
      for (int64_t e = 0; e < experts.n; ++e)
        for (int64_t r = experts.offset[e]; r < experts.offset[e + 1]; ++r)
          if (token[r] >= first && token[r] < end)
            loop.add_scaled(factor[r], weight + e * width, width, sum + (token[r] - first) * width);
      if constexpr (!std::is_same_v<S, W>) loop.narrow(sum, (end - first) * width, out + first * width);
    };
  });
}

// out[e] = sum of factor[r] x[token[r]] over expert e's pairs; zeros for experts without pairs.
template <class S>
void sums_by_expert(const Wide<S>* factor, const S* x, const int64_t* token, const Experts& experts, int64_t width,
                    S* out) {
  using W = Wide<S>;
  const auto& loop = loops<S>();
  const int64_t per_task = std::clamp<int64_t>(65536 / (1 + width), 1, 256);
  run_tasks((experts.n + per_task - 1) / per_task, [&] {
    return [&, wide = Scratch<W>(width)](int64_t task) {
      for (int64_t e = task * per_task; e < std::min(experts.n, (task + 1) * per_task); ++e) {
        W* sum = wide.get();
        if constexpr (std::is_same_v<S, W>) sum = out + e * width;
        std::memset(sum, 0, static_cast<size_t>(width) * sizeof(W));
        for (int64_t r = experts.offset[e]; r < experts.offset[e + 1]; ++r)
          loop.add_scaled(factor[r], x + token[r] * width, width, sum);
        if constexpr (!std::is_same_v<S, W>) loop.narrow(sum, width, out + e * width);
      }
    };
  });
}

Tensor expert_of_pairs(const Tensor& offset_E1, const Tensor& token_R) {
  return at::repeat_interleave(offset_E1.diff()).to(token_R.device());
}

Experts experts_of(const Tensor& offset_E1) {
  return {offset_E1.const_data_ptr<int64_t>(), offset_E1.size(0) - 1};
}

Tensor products_of(const Tensor& x_ND, const Tensor& weight_ED, const Tensor& token_R, const Tensor& offset_E1) {
  count_product(token_R.size(0), x_ND.size(1), 1);
  if (!has_loops(x_ND)) return plain::pair_products(x_ND, weight_ED, token_R, offset_E1);
  auto out_R = fresh({token_R.size(0)}, x_ND.options().dtype(wide_type(x_ND.scalar_type())));
  by_element(x_ND.scalar_type(), [&]<class S>(std::type_identity<S>) {
    products(data<S>(x_ND), data<S>(weight_ED), token_R.const_data_ptr<int64_t>(), token_R.size(0),
             experts_of(offset_E1), x_ND.size(1), mutable_data<Wide<S>>(out_R));
  });
  return out_R;
}

Tensor token_sums_of(const Tensor& factor_R, const Tensor& weight_ED, const Tensor& token_R, const Tensor& offset_E1,
                     int64_t n_tokens) {
  count_product(token_R.size(0), 1, weight_ED.size(1));
  if (!has_loops(weight_ED)) {
    const auto [sorted_R, order_R] = at::sort(token_R, /*stable=*/true, /*dim=*/0, /*descending=*/false);
    return bag_sums(weight_ED, expert_of_pairs(offset_E1, token_R).index_select(0, order_R),
                    at::searchsorted(sorted_R, at::arange(n_tokens, token_R.options())),
                    factor_R.index_select(0, order_R));
  }
  auto out_ND = fresh({n_tokens, weight_ED.size(1)}, weight_ED.options());
  by_element(weight_ED.scalar_type(), [&]<class S>(std::type_identity<S>) {
    sums_by_token(data<Wide<S>>(factor_R), data<S>(weight_ED), token_R.const_data_ptr<int64_t>(), experts_of(offset_E1),
                  n_tokens, weight_ED.size(1), mutable_data<S>(out_ND));
  });
  return out_ND;
}

Tensor expert_sums_of(const Tensor& factor_R, const Tensor& x_ND, const Tensor& token_R, const Tensor& offset_E1) {
  count_product(token_R.size(0), 1, x_ND.size(1));
  if (!has_loops(x_ND)) return bag_sums(x_ND, token_R, offset_E1.slice(0, 0, -1).to(x_ND.device()), factor_R);
  auto out_ED = fresh({offset_E1.size(0) - 1, x_ND.size(1)}, x_ND.options());
  by_element(x_ND.scalar_type(), [&]<class S>(std::type_identity<S>) {
    sums_by_expert(data<Wide<S>>(factor_R), data<S>(x_ND), token_R.const_data_ptr<int64_t>(), experts_of(offset_E1),
                   x_ND.size(1), mutable_data<S>(out_ED));
  });
  return out_ED;
}

struct PairProducts : torch::autograd::Function<PairProducts> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x_in, const Tensor& weight_in,
                        const Tensor& token_R, const Tensor& offset_E1) {
    const auto x_ND = x_in.contiguous(), weight_ED = weight_in.contiguous();
    context->save_for_backward({x_ND, weight_ED, token_R, offset_E1});
    return products_of(x_ND, weight_ED, token_R, offset_E1);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& grads) {
    refuse_second_derivative("pair_products");
    const auto saved = context->get_saved_variables();
    const auto &x_ND = saved[0], &weight_ED = saved[1], &token_R = saved[2], &offset_E1 = saved[3];
    const auto grad_R = grads[0].contiguous();
    return {
        context->needs_input_grad(0) ? token_sums_of(grad_R, weight_ED, token_R, offset_E1, x_ND.size(0)) : Tensor(),
        context->needs_input_grad(1) ? expert_sums_of(grad_R, x_ND, token_R, offset_E1) : Tensor(), Tensor(), Tensor()};
  }
};

struct PairSums : torch::autograd::Function<PairSums> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& factor_in, const Tensor& weight_in,
                        const Tensor& token_R, const Tensor& offset_E1, int64_t n_tokens) {
    const auto weight_ED = weight_in.contiguous();
    const auto factor_R = factor_in.to(wide_type(weight_ED.scalar_type())).contiguous();
    context->save_for_backward({factor_R, weight_ED, token_R, offset_E1});
    context->saved_data["type"] = factor_in.scalar_type();
    return token_sums_of(factor_R, weight_ED, token_R, offset_E1, n_tokens);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& grads) {
    refuse_second_derivative("pair_sums");
    const auto saved = context->get_saved_variables();
    const auto &factor_R = saved[0], &weight_ED = saved[1], &token_R = saved[2], &offset_E1 = saved[3];
    const auto grad_ND = grads[0].contiguous();
    return {context->needs_input_grad(0)
                ? products_of(grad_ND, weight_ED, token_R, offset_E1).to(context->saved_data["type"].toScalarType())
                : Tensor(),
            context->needs_input_grad(1) ? expert_sums_of(factor_R, grad_ND, token_R, offset_E1) : Tensor(), Tensor(),
            Tensor(), Tensor()};
  }
};

void check_pairs(const char* who, const Tensor& weight_ED, const Tensor& token_R, const Tensor& offset_E1,
                 int64_t n_tokens) {
  require(n_tokens >= 0, who, ": the number of tokens must be at least 0, got ", n_tokens);
  require(weight_ED.dim() == 2, who, ": weight [E, D] wanted, got ", weight_ED.sizes());
  check_token(who, token_R, n_tokens);
  check_offset(who, offset_E1, weight_ED.size(0), token_R.size(0));
}

}  // namespace

Tensor pair_products(const Tensor& x_ND, const Tensor& weight_ED, const Tensor& token_R, const Tensor& offset_E1) {
  constexpr auto who = "pair_products";
  require(x_ND.dim() == 2 && weight_ED.dim() == 2 && x_ND.size(1) == weight_ED.size(1), who,
          ": x [N, D] and weight [E, D] wanted, got ", x_ND.sizes(), " and ", weight_ED.sizes());
  check_same(who, x_ND, weight_ED);
  check_pairs(who, weight_ED, token_R, offset_E1, x_ND.size(0));
  if (!has_passes(x_ND)) return plain::pair_products(x_ND, weight_ED, token_R, offset_E1);
  return PairProducts::apply(x_ND, weight_ED, token_R.contiguous(), offset_E1.contiguous());
}

Tensor pair_sums(const Tensor& factor_R, const Tensor& weight_ED, const Tensor& token_R, const Tensor& offset_E1,
                 int64_t n_tokens) {
  constexpr auto who = "pair_sums";
  check_pairs(who, weight_ED, token_R, offset_E1, n_tokens);
  require(factor_R.dim() == 1 && factor_R.sizes() == token_R.sizes(), who, ": factor [R] and token [R] wanted, got ",
          factor_R.sizes(), " and ", token_R.sizes());
  check_gate(who, factor_R, weight_ED);
  if (!has_passes(weight_ED))
    return plain::pair_sums(factor_R, weight_ED, token_R, offset_E1, n_tokens);
  return PairSums::apply(factor_R, weight_ED, token_R.contiguous(), offset_E1.contiguous(), n_tokens);
}

namespace plain {

Tensor pair_products(const Tensor& x_ND, const Tensor& weight_ED, const Tensor& token_R, const Tensor& offset_E1) {
  const auto type = wide_type(x_ND.scalar_type());
  const auto x_RD = x_ND.index_select(0, token_R).to(type);
  return (x_RD * weight_ED.index_select(0, expert_of_pairs(offset_E1, token_R)).to(type)).sum(1);
}

Tensor pair_sums(const Tensor& factor_R, const Tensor& weight_ED, const Tensor& token_R, const Tensor& offset_E1,
                 int64_t n_tokens) {
  const auto type = wide_type(weight_ED.scalar_type());
  const auto weight_RD = weight_ED.index_select(0, expert_of_pairs(offset_E1, token_R)).to(type);
  return at::zeros({n_tokens, weight_ED.size(1)}, weight_RD.options().requires_grad(false))
      .index_add(0, token_R, factor_R.to(type).unsqueeze(1) * weight_RD)
      .to(weight_ED.scalar_type());
}

}  // namespace plain
}  // namespace collegium::kernels
