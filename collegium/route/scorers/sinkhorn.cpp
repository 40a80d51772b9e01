// Scores from optimal transport: on a selected share of training passes the inner scorer's logits become a transport
// plan between tokens (each of mass one) and experts (each of mass N / E), by Sinkhorn iterations in log space; in
// other passes and in evaluation the inner softmax stands. Choice and weights both come from the plan, so the task's
// gradient meets the balance without a loss. P043 (SSR), sections 3 and 4: entropic optimal transport, gating scores
// from the transport map, Sinkhorn only now and then. share = 1 is plain Sinkhorn routing (Clark 2022, S-BASE).
// Assumed: a share of passes drawn at random (a pass is one layer in one micro-batch), the gradient through all
// iterations, and the last iteration over the tokens, so that each token's scores sum to one exactly.
//
// N tokens, M real ones, E experts.
#include <ATen/ATen.h>

#include <cmath>

#include "collegium/route/wrapped_scorer.h"

namespace collegium::route {
namespace {

class SinkhornScorer final : public WrappedScorer, public Makes<SinkhornScorer, Scorer> {
 public:
  using Interface = Scorer;
  struct Config {
    Named of{.name = "linear"};
    double epsilon = 0.5;
    int64_t iterations = 10;
    double share = 0.1;
    void visit(Fields& field) {
      field("of", of, {.help = "whose logits are transported", .catalogue = "scorers"});
      field("epsilon", epsilon,
            {.help = "entropy of the plan: logits are divided by it", .unit = "logit", .min = 1e-3});
      field("iterations", iterations, {.help = "rounds of scaling, experts then tokens", .min = 1});
      field("share", share, {.help = "share of training passes that use the plan", .min = 0, .max = 1});
    }
  };

  SinkhornScorer(const Config& config, const StageInputs& in) : WrappedScorer(config.of, in), config_(config) {
    require(inner_->kind() == ScoreKind::softmax, "sinkhorn: scorer '", config.of.name,
            "' must give softmax scores, which stand in for the plan in evaluation");
    require(!inner_->claims().closes_experts, "sinkhorn: scorer '", config.of.name,
            "' closes experts to some tokens, and a balanced plan would give them mass there");
  }

  Scores score(const Tensor& x_ND, const Context& context) override {
    auto out = inner_->score(x_ND, context);
    if (context.phase == Phase::evaluate || config_.share == 0) return out;
    if (context.random.at("sinkhorn").uniform(0) >= config_.share) return out;
    // A scorer without logits has their like in the logarithm of its distribution.
    const auto logit_NE = out.logit_NE.defined() ? out.logit_NE : out.score_NE.clamp_min(1e-30).log();
    // Padding has no mass, so it takes no part in the plan.
    if (!context.mask_N.defined()) {
      out.score_NE = plan(logit_NE);
    } else if (const auto real_M = context.mask_N.nonzero().flatten(); real_M.size(0) > 0) {
      out.score_NE = out.score_NE.index_copy(0, real_M, plan(logit_NE.index_select(0, real_M)));
    }
    return out;
  }
  Claims claims() const override {
    auto out = inner_->claims();
    out.is_causal_in_training = out.is_causal_in_training && config_.share == 0;
    return out;
  }

 private:
  // Rows sum to one exactly, columns to M / E as nearly as the iterations get.
  Tensor plan(const Tensor& logit_ME) const {
    const auto M = logit_ME.size(0), E = logit_ME.size(1);
    if (M == 0) return logit_ME;
    const auto column = std::log(static_cast<double>(M) / static_cast<double>(E));
    // Experts are rows here: sums over the tokens run along the inner dimension, whose order threads do not change.
    auto log_EM = logit_ME.t().contiguous() / config_.epsilon;
    log_EM = log_EM - log_EM.logsumexp({0}, true);
    for (int64_t i = 0; i < config_.iterations; ++i) {
      log_EM = log_EM - log_EM.logsumexp({1}, true) + column;
      log_EM = log_EM - log_EM.logsumexp({0}, true);
    }
    return log_EM.exp().t().contiguous();
  }

  Config config_;
};

}  // namespace

extern constinit const Entry<Scorer> scorer_sinkhorn = entry<SinkhornScorer>(
    {.name = "sinkhorn",
     .paper = 43,
     .source = "Nguyen 2025 (Selective Sinkhorn Routing), sections 3 and 4",
     .taxonomy = "gating/sparse/optimal transport",
     .summary = "scores from a balanced transport plan in a share of training passes",
     .equation = "share of training passes: p_te = u_t v_e exp(ℓ_te / ε) with Σ_e p_te = 1, Σ_t p_te ≈ N / E\n"
                 "else p = softmax(ℓ);  u, v by Sinkhorn iterations, ℓ = logits of the wrapped scorer",
     .claims = {.is_causal_in_training = false}});

}  // namespace collegium::route
