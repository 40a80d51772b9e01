// Each token takes the k experts with the highest score plus selection bias. Ties go to the lower expert id.
// The bias selects and never weighs: gates read the scores, not what was compared here (P084, eq. 3).
//
// N tokens, E experts, K choices, A = real tokens * K.
#include <ATen/ATen.h>

#include <limits>

#include "collegium/kernels/top_k.h"
#include "collegium/route/gather.h"
#include "collegium/route/stages.h"
#include "collegium/route/turning.h"

namespace collegium::route {
namespace {

constexpr Selector::Claims kTopKClaims = {.chooser = Chooser::token, .reads_bias = true, .respects_closed = true};

class TopKSelector final : public Selector, public Makes<TopKSelector, Selector> {
 public:
  using Interface = Selector;
  struct Config {
    int64_t k = 2;
    void visit(Fields& field) { field("k", k, {.help = "experts per token", .unit = "experts", .min = 1}); }
  };

  TopKSelector(const Config& config, const StageInputs& in) : k_(config.k) {
    require(k_ <= in.n_experts, "top_k: k = ", k_, " is more than the ", in.n_experts, " experts there are");
  }

  Assignments select(const Scores& scores, const Tensor& bias_E, const Context& context) override {
    const auto chosen =
        scores.open_NE.defined() ? of_open(scores, bias_E) : kernels::top_k(scores.score_NE, k_, bias_E);
    // A token with fewer than k open experts asks for those alone.
    const auto asks_NK = scores.open_NE.defined() ? scores.open_NE.gather(1, chosen.expert_NK) : Tensor();
    return token_choices(chosen.expert_NK, chosen.score_NK, chosen.score_NK - chosen.runner_up_N.unsqueeze(1),
                         context.mask_N, asks_NK);
  }
  Reasons reasons(const Scores& scores, const Tensor& bias_E, const Context&) override {
    constexpr auto infinity = std::numeric_limits<double>::infinity();
    Reasons out{.compared_NE = scores.score_NE.detach(), .rule = text("each token takes its ", best_of(k_, "expert"))};
    if (bias_E.defined()) out.compared_NE = out.compared_NE + bias_E.detach().to(out.compared_NE);
    if (!scores.open_NE.defined()) {
      out.turns_at_NE = kth_of_others(out.compared_NE, k_);
    } else {
      const auto closed_NE = scores.open_NE.logical_not();
      out.turns_at_NE =
          kth_of_others(out.compared_NE.masked_fill(closed_NE, -infinity), k_).masked_fill(closed_NE, infinity);
      out.rule += " of those that are open to it";
    }
    return out;
  }
  Needs needs() const override { return {.scores = {ScoreKind::softmax, ScoreKind::sigmoid, ScoreKind::relu}}; }
  Claims claims() const override { return kTopKClaims; }
  double choices_per_token() const override { return static_cast<double>(k_); }
  std::optional<kernels::GroupRule> choice_rule() const override { return kernels::GroupRule{.k = k_}; }

 private:
  kernels::TopK of_open(const Scores& scores, const Tensor& bias_E) const {
    auto compared_NE = scores.score_NE.detach();
    if (bias_E.defined()) compared_NE = compared_NE + bias_E.detach().to(compared_NE);
    return kernels::top_k(
        compared_NE.masked_fill(scores.open_NE.logical_not(), -std::numeric_limits<double>::infinity()), k_);
  }

  int64_t k_;
};

}  // namespace

extern constinit const Entry<Selector> selector_top_k =
    entry<TopKSelector>({.name = "top_k",
                         .paper = 106,
                         .source = "Shazeer 2017, eq. 5; Fedus 2021 (k = 1), eq. 2",
                         .taxonomy = "gating/sparse/token choice",
                         .summary = "each token takes its k best experts",
                         .equation = "T = top-k(s + b),  b = selection bias of the balancers, 0 without one",
                         .claims = kTopKClaims});

}  // namespace collegium::route
