// The weight is a softmax over what one expert took from one sequence, so an expert's weights for an image sum to one
// however many patches it takes: pMoE (P089). The softmax is over the scorer's logits; without
// logits, over the logarithm of the scores.
//
// N tokens, B sequences, E experts, R kept assignments.
#include <ATen/ATen.h>

#include <limits>

#include "collegium/route/gather.h"
#include "collegium/route/stages.h"

namespace collegium::route {
namespace {

class ChoiceSoftmaxGate final : public Gate, public Makes<ChoiceSoftmaxGate, Gate> {
 public:
  using Interface = Gate;
  struct Config {
    void visit(Fields&) {}
  };
  ChoiceSoftmaxGate(const Config&, const StageInputs&) {}

  Tensor weigh(const Scores& scores, const Decision& decision, const Context& context) override {
    const auto& token_R = decision.token_R();
    const auto logit_NE = scores.logit_NE.defined() ? scores.logit_NE : scores.score_NE.clamp_min(1e-30).log();
    const auto logit_R = gather_scores(logit_NE, token_R, decision.expert_R());
    if (token_R.size(0) == 0) return logit_R;
    // One group for each expert of each sequence.
    const auto E = decision.n_experts(), B = context.sequence_N.defined() ? context.n_sequences : 1;
    auto group_R = decision.expert_R();
    if (context.sequence_N.defined()) group_R = group_R + E * context.sequence_N.index_select(0, token_R);
    const auto largest_G =
        at::full({B * E}, -std::numeric_limits<double>::infinity(), logit_R.options().requires_grad(false))
            .scatter_reduce(0, group_R, logit_R.detach(), "amax");
    const auto power_R = (logit_R - largest_G.index_select(0, group_R)).exp();
    const auto sum_G = at::zeros_like(largest_G).index_add(0, group_R, power_R);
    return power_R / sum_G.index_select(0, group_R);
  }
  // Where tokens choose, a token's weight would depend on who else asked for its expert, later tokens included.
  Needs needs() const override { return {.scores = {ScoreKind::softmax, ScoreKind::sigmoid}, .expert_choice = true}; }
};

}  // namespace

extern constinit const Entry<Gate> gate_choice_softmax = entry<ChoiceSoftmaxGate>(
    {.name = "choice_softmax",
     .paper = 89,
     .source = "Chowdhury 2023 (pMoE)",
     .taxonomy = "gating/weights/normalised",
     .summary = "softmax over what an expert took from one sequence",
     .equation = "g_te = exp(ℓ_te) / Σ_{u ∈ T_e} exp(ℓ_ue),  T_e = tokens of the same sequence that e took"});

}  // namespace collegium::route
