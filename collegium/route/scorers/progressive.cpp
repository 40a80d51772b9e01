// Progressive scaling routing: where a layer may reuse its neighbours' experts, its router begins with the layer's own
// and the pool of candidates grows over training until all are open. Wraps any scorer. P023 (Tan 2025, ReXMoE):
// "during training, ReXMoE progressively scales the candidate pool by gradually reducing the number of masked experts
// until all experts are available".
//
// Scores are taken over the open candidates alone: the score function sees their logits only, so with none but its own
// experts a layer routes as if there were no others, to the bit. Losses count them alone as well (Scores::n_open).
// Assumed: the pool grows linearly, and neighbours' experts open in the order in which they stand. The number of
// optimiser steps is a buffer, so that a checkpoint continues the schedule.
//
// N tokens, E experts.
#include <ATen/ATen.h>

#include <algorithm>

#include "collegium/route/score_function.h"
#include "collegium/route/wrapped_scorer.h"

namespace collegium::route {
namespace {

class ProgressiveScorer final : public WrappedScorer, public Makes<ProgressiveScorer, Scorer> {
 public:
  using Interface = Scorer;
  struct Config {
    Named of{.name = "linear"};
    int64_t start = 0;
    int64_t steps = 1000;
    void visit(Fields& field) {
      field("of", of, {.help = "the scorer whose candidates grow", .catalogue = "scorers"});
      field("start", start, {.help = "optimiser steps with the layer's own experts alone", .unit = "steps", .min = 0});
      field("steps", steps,
            {.help = "steps from then on until every expert is a candidate; 0 = at once", .unit = "steps", .min = 0});
    }
  };

  ProgressiveScorer(const Config& config, const StageInputs& in)
      : WrappedScorer(config.of, in),
        config_(config),
        n_experts_(in.n_experts),
        n_own_(in.n_own > 0 ? in.n_own : in.n_experts) {
    require(inner_->kind() != ScoreKind::none, "progressive: scorer '", config.of.name, "' gives no scores");
    require(!inner_->claims().closes_experts, "progressive: scorer '", config.of.name, "' closes experts itself");
    require(in.n_null == 0, "progressive: null experts are no candidates of a growing pool");
    steps_ = at::zeros({}, at::TensorOptions().dtype(at::kLong).device(in.options.device_opt()));
  }

  Scores score(const Tensor& x_ND, const Context& context) override {
    auto out = inner_->score(x_ND, context);
    const auto n = n_open();
    if (n == n_experts_) return out;
    require(out.logit_NE.defined(), "progressive: the inner scorer gives no logits");
    const auto logit_NE = out.logit_NE.slice(1, 0, n).contiguous();
    const auto closed_NE =
        at::full({logit_NE.size(0), n_experts_ - n}, kClosedLogit, logit_NE.options().requires_grad(false));
    out.score_NE = at::cat({score_function(logit_NE, inner_->kind()), at::zeros_like(closed_NE)}, 1);
    out.logit_NE = at::cat({logit_NE, closed_NE}, 1);
    out.open_NE = at::arange(n_experts_, x_ND.options().dtype(at::kLong).requires_grad(false))
                      .lt(n)
                      .expand({x_ND.size(0), n_experts_});
    out.n_open = n;
    return out;
  }
  void step() override {
    WrappedScorer::step();
    steps_ += 1;
  }
  Claims claims() const override {
    auto claims = inner_->claims();
    claims.closes_experts = n_own_ < n_experts_;
    return claims;
  }
  void collect(ParameterList& list) override {
    WrappedScorer::collect(list);
    list.buffer("steps", steps_);
  }

 private:
  int64_t n_open() const {
    if (n_own_ == n_experts_) return n_experts_;
    const auto grown = steps_.item<int64_t>() - config_.start;
    if (grown < 0) return n_own_;
    if (grown >= config_.steps) return n_experts_;
    return n_own_ + (n_experts_ - n_own_) * grown / config_.steps;
  }

  Config config_;
  int64_t n_experts_, n_own_;
  Tensor steps_;
};

}  // namespace

extern constinit const Entry<Scorer> scorer_progressive = entry<ProgressiveScorer>(
    {.name = "progressive",
     .paper = 23,
     .source = "Tan 2025 (ReXMoE), progressive scaling routing",
     .taxonomy = "gating/sparse/masked",
     .summary = "candidates grow from the layer's own experts to those of its neighbours",
     .equation = "s = φ(ℓ_1 … ℓ_n),  s_e = 0 for e > n,  ℓ and φ of the wrapped scorer\n"
                 "n = m + ⌊(E - m) (t - start) / steps⌋, from m own experts to E,  t = optimiser steps",
     .claims = {.closes_experts = true}});

}  // namespace collegium::route
