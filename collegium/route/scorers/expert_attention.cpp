// Experts attend to each other before a token chooses: three projections of the token give each expert a number as
// query, as key and as value, P = softmax over the keys of q k^T, and P v are the logits. P079 (Yuan 2.0-M32),
// the attention router; the public code (ParallelAttention_router) has one head and no scaling.
//
// `query_key_value` is the published checkpoint's weight as it is: [3E, D], E rows of queries, then E of keys, then E
// of values, no bias.
//
// The [N, E, E] attention is never held: a row of it is made and forgotten, in the backward pass again.
//
// N tokens, D model width, E experts.
#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>

#include "collegium/kernels/flops.h"
#include "collegium/kernels/router_linear.h"
#include "collegium/route/stages.h"

namespace collegium::route {
namespace {

// out_i = sum_j softmax_j(q_i k_j) v_j, one expert i at a time.
struct ExpertsAttend : torch::autograd::Function<ExpertsAttend> {
  static Tensor share(const Tensor& q_NE, const Tensor& k_NE, int64_t i) {
    return (q_NE.narrow(1, i, 1) * k_NE).softmax(-1);
  }
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& q_NE, const Tensor& k_NE,
                        const Tensor& v_NE) {
    auto out_NE = at::empty_like(v_NE, at::MemoryFormat::Contiguous);
    kernels::count_flops(4.0 * static_cast<double>(q_NE.numel()) * static_cast<double>(q_NE.size(1)));
    for (int64_t i = 0; i < q_NE.size(1); ++i) out_NE.select(1, i).copy_((share(q_NE, k_NE, i) * v_NE).sum(-1));
    context->save_for_backward({q_NE, k_NE, v_NE, out_NE});
    return out_NE;
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& grads) {
    const auto saved = context->get_saved_variables();
    const auto &q_NE = saved[0], &k_NE = saved[1], &v_NE = saved[2], &out_NE = saved[3];
    auto grad_q_NE = at::empty_like(v_NE), grad_k_NE = at::zeros_like(v_NE), grad_v_NE = at::zeros_like(v_NE);
    for (int64_t i = 0; i < q_NE.size(1); ++i) {
      const auto weighted_NE = share(q_NE, k_NE, i) * grads[0].narrow(1, i, 1);
      grad_v_NE += weighted_NE;
      const auto grad_logit_NE = weighted_NE * (v_NE - out_NE.narrow(1, i, 1));
      grad_q_NE.select(1, i).copy_((grad_logit_NE * k_NE).sum(-1));
      grad_k_NE += grad_logit_NE * q_NE.narrow(1, i, 1);
    }
    return {grad_q_NE, grad_k_NE, grad_v_NE};
  }
};

class ExpertAttentionScorer final : public Scorer, public Makes<ExpertAttentionScorer, Scorer> {
 public:
  using Interface = Scorer;
  struct Config {
    double init_scale = 1;
    void visit(Fields& field) {
      field("init_scale", init_scale,
            {.help = "weights start normal with standard deviation sqrt(init_scale / d_model)", .min = 0});
    }
  };

  ExpertAttentionScorer(const Config& config, const StageInputs& in) : n_experts_(in.n_experts) {
    const auto std = std::sqrt(config.init_scale / static_cast<double>(in.d_model));
    query_key_value_XD_ =
        in.random.at("query_key_value").normal({3 * in.n_experts, in.d_model}, std, in.options).requires_grad_(true);
  }

  Scores score(const Tensor& x_ND, const Context&) override {
    const auto dtype = router_dtype(x_ND);
    const auto parts = kernels::router_linear(x_ND.to(dtype), query_key_value_XD_.to(dtype)).split(n_experts_, 1);
    Scores out;
    out.logit_NE = ExpertsAttend::apply(parts[0].contiguous(), parts[1].contiguous(), parts[2].contiguous());
    out.score_NE = out.logit_NE.softmax(-1);
    return out;
  }
  ScoreKind kind() const override { return ScoreKind::softmax; }
  double flops_per_token() const override {
    const auto E = static_cast<double>(n_experts_);
    return 2.0 * static_cast<double>(query_key_value_XD_.numel()) + 4 * E * E;
  }
  void collect(ParameterList& list) override {
    list.parameter("query_key_value", query_key_value_XD_, ParameterKind::embedding);
  }

 private:
  int64_t n_experts_;
  Tensor query_key_value_XD_;
};

}  // namespace

extern constinit const Entry<Scorer> scorer_expert_attention =
    entry<ExpertAttentionScorer>({.name = "expert_attention",
                                  .paper = 79,
                                  .source = "Wu 2024 (Yuan 2.0-M32), attention router",
                                  .taxonomy = "gating/sparse/attention",
                                  .summary = "experts attend to each other, token by token, before one is chosen",
                                  .equation = "(q, k, v) = W x, a number each for every expert\n"
                                              "p = softmax(ℓ),  ℓ_i = Σ_j softmax_j(q_i k_j) v_j"});

}  // namespace collegium::route
