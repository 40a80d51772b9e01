// Each expert takes its own best tokens, so loads are equal by construction. P065.
// A token may be taken by any number of experts, none included. Ties go to the earlier token.
//
// N tokens, E experts, C tokens per expert = ceil(capacity_factor * real tokens / E).
#include <ATen/ATen.h>

#include <cmath>
#include <limits>

#include "collegium/kernels/top_k.h"
#include "collegium/route/stages.h"
#include "collegium/route/turning.h"

namespace collegium::route {
namespace {

constexpr Selector::Claims kExpertChoiceClaims = {
    .chooser = Chooser::expert, .is_exactly_balanced = true, .is_causal = false};

class ExpertChoiceSelector final : public Selector, public Makes<ExpertChoiceSelector, Selector> {
 public:
  using Interface = Selector;
  struct Config {
    double capacity_factor = 2.0;
    void visit(Fields& field) {
      field("capacity_factor", capacity_factor,
            {.help = "mean experts per token: each expert takes capacity_factor * tokens / experts tokens",
             .unit = "experts",
             .min = 1e-6});
    }
  };

  ExpertChoiceSelector(const Config& config, const StageInputs& in) : factor_(config.capacity_factor) {
    require(factor_ <= static_cast<double>(in.n_experts), "expert_choice: capacity_factor = ", factor_,
            " is more than the ", in.n_experts, " experts there are: a token can be taken once by each");
  }

  // A bias per expert could not change which tokens an expert likes best, so none is read.
  Assignments select(const Scores& scores, const Tensor&, const Context& context) override {
    const auto compared_NE = scores.score_NE.detach();
    const auto E = compared_NE.size(1);
    const auto ints = compared_NE.options().dtype(at::kLong);
    const auto real_M =
        context.mask_N.defined() ? context.mask_N.nonzero().flatten() : at::arange(compared_NE.size(0), ints);
    const auto M = real_M.size(0);
    if (M == 0) {
      const auto none = at::empty({0}, ints), no_score = at::empty({0}, compared_NE.options());
      return {none, none, none, no_score, no_score};
    }
    const auto C = tokens_of_each(M, E);
    // Rows are experts here, so the lower "expert id" of the tie rule is the earlier token.
    const auto chosen = kernels::top_k(compared_NE.index_select(0, real_M).t().contiguous(), C);
    const auto token_EC = real_M.index_select(0, chosen.expert_NK.reshape({-1}));
    const auto expert_EC = at::arange(E, ints).unsqueeze(1).expand({E, C}).reshape({-1});
    const auto rank_EC = at::arange(C, ints).unsqueeze(0).expand({E, C}).reshape({-1});
    const auto score_EC = chosen.score_NK.reshape({-1});
    const auto margin_EC = (chosen.score_NK - chosen.runner_up_N.unsqueeze(1)).reshape({-1});
    return {token_EC, expert_EC, rank_EC, score_EC, margin_EC};
  }
  Reasons reasons(const Scores& scores, const Tensor&, const Context& context) override {
    constexpr auto infinity = std::numeric_limits<double>::infinity();
    Reasons out{.compared_NE = scores.score_NE.detach()};
    const auto E = out.compared_NE.size(1), M = n_real(context, out.compared_NE.size(0));
    const auto masked_N1 = real_tokens(context, out.compared_NE.size(0), out.compared_NE.options()).eq(0).unsqueeze(1);
    const auto C = tokens_of_each(M, E);
    out.turns_at_NE =
        kth_of_others(out.compared_NE.masked_fill(masked_N1, -infinity).t(), C).t().masked_fill(masked_N1, infinity);
    out.rule = text("experts choose: each takes its ", best_of(C, "token"), " of ", M);
    return out;
  }
  // Not ReLU: its zeros tie, and an expert would take tokens it does not want in the order of their position.
  Needs needs() const override { return {.scores = {ScoreKind::softmax, ScoreKind::sigmoid}}; }
  Claims claims() const override { return kExpertChoiceClaims; }
  double choices_per_token() const override { return factor_; }

 private:
  int64_t tokens_of_each(int64_t M, int64_t E) const {
    const auto wanted = std::ceil(factor_ * static_cast<double>(M) / static_cast<double>(E) - 1e-9);
    return std::min(M, static_cast<int64_t>(wanted));
  }

  double factor_;
};

}  // namespace

extern constinit const Entry<Selector> selector_expert_choice = entry<ExpertChoiceSelector>(
    {.name = "expert_choice",
     .paper = 65,
     .source = "Zhou 2022 (Expert Choice), section 3.2",
     .taxonomy = "gating/sparse/expert choice",
     .summary = "each expert takes its own best tokens, a fixed number of them",
     .equation = "T_e = the C tokens of largest s_te,  C = min(N, ⌈capacity_factor · N / E⌉)",
     .claims = kExpertChoiceClaims});

}  // namespace collegium::route
