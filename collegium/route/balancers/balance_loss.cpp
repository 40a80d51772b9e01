// The auxiliary load-balancing loss: asked load times mean probability, under a named convention. P106, eq. 4 to 6.
#include <ATen/ATen.h>

#include "collegium/route/losses.h"

namespace collegium::route {
namespace {

class BalanceLoss final : public Balancer, public Makes<BalanceLoss, Balancer> {
 public:
  using Interface = Balancer;
  struct Config {
    double coefficient = 0.01;
    LossConvention convention = LossConvention::switch_;
    LossScope scope = LossScope::batch;
    void visit(Fields& field) {
      field("coefficient", coefficient, {.help = "weight of the loss", .min = 0});
      field("convention", convention,
            {.help = "which definition: minimum 1 (switch), k (hf_pooled) or 1/E^2 (gshard)"});
      field("scope", scope, {.help = "loads of the whole batch, or of each sequence"});
    }
  };
  BalanceLoss(const Config& config, const StageInputs&) : config_(config) {}

  std::vector<LossTerm> loss(const Scores& scores, const Decision& decision, const Context& context) override {
    const auto raw = balance_loss(scores, decision, context, config_.convention, config_.scope);
    return {{"balance_loss", raw * config_.coefficient, raw.item<double>()}};
  }
  Needs needs() const override { return {.scores = {ScoreKind::softmax, ScoreKind::sigmoid, ScoreKind::relu}}; }

 private:
  Config config_;
};

}  // namespace

extern constinit const Entry<Balancer> balancer_balance_loss = entry<BalanceLoss>(
    {.name = "balance_loss",
     .paper = 106,
     .source = "Fedus 2021, eq. 4 to 6; Lepikhin 2020, algorithm 1; transformers (pooled)",
     .taxonomy = "training/balance/auxiliary loss",
     .summary = "penalises load times probability, under a named convention",
     .equation = "L = α E Σ_e f_e P_e,  f_e = share of assignments asked of e,  P_e = mean probability\n"
                 "hf_pooled: f_e = assignments a token;  gshard: α / E Σ_e f_e P_e, f_e = share of first choices"});

}  // namespace collegium::route
