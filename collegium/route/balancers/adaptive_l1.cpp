// ReMoE's regulariser: an L1 norm of the ReLU scores, each expert weighted by its load, whose strength is multiplied
// up or down after every step until the target number of active experts is reached. P095, eq. 8 to 12.
//
// N tokens, E experts.
#include <ATen/ATen.h>

#include <cmath>

#include "collegium/route/stages.h"

namespace collegium::route {
namespace {

class AdaptiveL1 final : public Balancer, public Makes<AdaptiveL1, Balancer> {
 public:
  using Interface = Balancer;
  struct Config {
    double target_k = 2;
    double start = 1e-8;
    double growth = 1.2;
    bool balance = true;
    void visit(Fields& field) {
      field("target_k", target_k, {.help = "mean active experts per token to reach", .unit = "experts", .min = 1e-6});
      field("start", start, {.help = "first strength of the regulariser", .min = 0});
      field("growth", growth, {.help = "factor by which the strength moves each step", .min = 1});
      field("balance", balance, {.help = "weight each expert by its load, which also spreads the load"});
    }
  };
  AdaptiveL1(const Config& config, const StageInputs& in) : config_(config) {
    require(config.target_k <= static_cast<double>(in.n_experts), "adaptive_l1: target_k = ", config.target_k,
            " is more than the ", in.n_experts, " experts there are");
    const auto options = at::TensorOptions().dtype(at::kDouble).device(in.options.device_opt());
    strength_ = at::full({}, config.start, options);
    active_ = at::zeros({}, options);
    tokens_ = at::zeros({}, options);
  }

  std::vector<LossTerm> loss(const Scores& scores, const Decision& decision, const Context& context) override {
    const auto& score_NE = scores.score_NE;
    const auto T = std::max<int64_t>(1, n_real(context, score_NE.size(0)));
    auto sum_E = (context.mask_N.defined() ? score_NE * context.mask_N.unsqueeze(1).to(score_NE) : score_NE).sum(0);
    if (config_.balance) {
      const auto uniform = config_.target_k * static_cast<double>(T) / static_cast<double>(score_NE.size(1));
      sum_E = sum_E * (decision.asked_E().to(score_NE) / uniform);
    }
    const auto raw = sum_E.sum() / static_cast<double>(T);
    return {{"adaptive_l1", raw * strength_.to(raw), raw.item<double>()}};
  }
  void observe(const Decision& decision, const Context& context) override {
    active_ += static_cast<double>(decision.n_asked());
    tokens_ += static_cast<double>(n_real(context, decision.n_tokens()));
  }
  void step() override {
    const auto tokens = tokens_.item<double>();
    if (tokens == 0) return;
    const auto surplus = active_.item<double>() / tokens - config_.target_k;
    if (surplus != 0) strength_ *= std::pow(config_.growth, surplus > 0 ? 1 : -1);
    active_.zero_(), tokens_.zero_();
  }
  Needs needs() const override { return {.scores = {ScoreKind::relu}}; }
  void collect(ParameterList& list) override {
    list.buffer("strength", strength_);
    list.buffer("pending_active", active_);
    list.buffer("pending_tokens", tokens_);
  }

 private:
  Config config_;
  Tensor strength_, active_, tokens_;
};

}  // namespace

extern constinit const Entry<Balancer> balancer_adaptive_l1 = entry<AdaptiveL1>(
    {.name = "adaptive_l1",
     .paper = 95,
     .source = "Wang 2024 (ReMoE), eq. 8 to 12",
     .taxonomy = "training/balance/sparsity control",
     .summary = "an L1 norm of ReLU scores that steers to a target number of active experts",
     .equation = "L = λ / N Σ_t Σ_e f_e s_te,  f_e = E n_e / (k N),  n_e = assignments asked of e, k = target_k\n"
                 "after each step λ ← λ · growth^sign(Σ_e n_e / N - k)"});

}  // namespace collegium::route
