// Every expert whose score is above zero works for the token: as many as the token needs, none included.
// P095 (ReMoE): with ReLU scores the gate goes to zero exactly where the choice ends, so routing is continuous.
//
// N tokens, E experts.
#include <ATen/ATen.h>

#include <limits>

#include "collegium/route/stages.h"

namespace collegium::route {
namespace {

constexpr Selector::Claims kPositiveClaims = {
    .chooser = Chooser::token, .asks_fixed_number = false, .respects_closed = true};  // a closed expert's score is 0

class PositiveSelector final : public Selector, public Makes<PositiveSelector, Selector> {
 public:
  using Interface = Selector;
  struct Config {
    double expected_k = 2;
    void visit(Fields& field) {
      field("expected_k", expected_k,
            {.help = "experts per token that the plan counts with; the balancer decides what it really is",
             .unit = "experts",
             .min = 0});
    }
  };

  PositiveSelector(const Config& config, const StageInputs&) : expected_k_(config.expected_k) {}

  Assignments select(const Scores& scores, const Tensor&, const Context& context) override {
    const auto score_NE = scores.score_NE.detach();
    auto chosen_NE = score_NE.gt(0);
    if (context.mask_N.defined()) chosen_NE = chosen_NE.logical_and(context.mask_N.unsqueeze(1));
    const auto place_A2 = chosen_NE.nonzero();  // ascending in the token, then in the expert
    const auto token_A = place_A2.select(1, 0).contiguous(), expert_A = place_A2.select(1, 1).contiguous();
    // Rank: how many of the token's scores are higher (or equal with a lower id).
    const auto rank_NE = score_NE.argsort(/*stable=*/true, /*dim=*/1, /*descending=*/true).argsort(int64_t{1}, false);
    const auto flat_A = token_A * score_NE.size(1) + expert_A;
    const auto score_A = score_NE.reshape({-1}).index_select(0, flat_A);
    return {token_A, expert_A, rank_NE.reshape({-1}).index_select(0, flat_A), score_A, score_A};
  }
  // What lies below zero shows in the logit only, where the score is made of it.
  Reasons reasons(const Scores& scores, const Tensor&, const Context&) override {
    const auto& logit_NE = scores.logit_NE;
    const bool is_plain = logit_NE.defined() && at::equal(logit_NE.relu(), scores.score_NE);
    Reasons out{.compared_NE = (is_plain ? logit_NE : scores.score_NE).detach(),
                .compares = is_plain ? "logit" : "score",
                .rule = "every expert above zero works for the token"};
    out.turns_at_NE = at::zeros_like(out.compared_NE);
    if (scores.open_NE.defined())
      out.turns_at_NE.masked_fill_(scores.open_NE.logical_not(), std::numeric_limits<double>::infinity());
    return out;
  }
  Needs needs() const override { return {.scores = {ScoreKind::relu}}; }
  Claims claims() const override { return kPositiveClaims; }
  double choices_per_token() const override { return expected_k_; }

 private:
  double expected_k_;
};

}  // namespace

extern constinit const Entry<Selector> selector_positive =
    entry<PositiveSelector>({.name = "positive",
                             .paper = 95,
                             .source = "Wang 2024 (ReMoE), eq. 6",
                             .taxonomy = "gating/sparse/dynamic",
                             .summary = "every expert with a score above zero",
                             .equation = "T = {e : s_e > 0}",
                             .claims = kPositiveClaims});

}  // namespace collegium::route
