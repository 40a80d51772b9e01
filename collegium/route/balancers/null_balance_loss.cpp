// The load-balancing loss for an expert set with null experts: all null experts are charged their mean load, so the
// loss asks how much they take together and never which of them takes it. P087 (AdaMoE), section 3.3, eq. 6 to 8.
// Without null experts this is `balance_loss` in Switch's convention.
#include <ATen/ATen.h>

#include "collegium/route/losses.h"

namespace collegium::route {
namespace {

class NullBalanceLoss final : public Balancer, public Makes<NullBalanceLoss, Balancer> {
 public:
  using Interface = Balancer;
  struct Config {
    double coefficient = 0.01;
    LossScope scope = LossScope::batch;
    void visit(Fields& field) {
      field("coefficient", coefficient, {.help = "weight of the loss", .min = 0});
      field("scope", scope, {.help = "loads of the whole batch, or of each sequence"});
    }
  };
  NullBalanceLoss(const Config& config, const StageInputs& in) : config_(config), n_null_(in.n_null) {}

  std::vector<LossTerm> loss(const Scores& scores, const Decision& decision, const Context& context) override {
    const auto raw = balance_loss(scores, decision, context, LossConvention::switch_, config_.scope, n_null_);
    return {{"null_balance_loss", raw * config_.coefficient, raw.item<double>()}};
  }
  Needs needs() const override { return {.scores = {ScoreKind::softmax, ScoreKind::sigmoid, ScoreKind::relu}}; }

 private:
  Config config_;
  int64_t n_null_;
};

}  // namespace

extern constinit const Entry<Balancer> balancer_null_balance_loss =
    entry<NullBalanceLoss>({.name = "null_balance_loss",
                            .paper = 87,
                            .source = "Zeng 2024 (AdaMoE), section 3.3",
                            .taxonomy = "training/balance/auxiliary loss",
                            .summary = "Switch's loss in which all null experts are charged their mean load",
                            .equation = "L = α E Σ_e f_e P_e over true and null experts,  P_e = mean probability\n"
                                        "f_e = share of assignments asked of e, for null experts the mean of theirs"});

}  // namespace collegium::route
