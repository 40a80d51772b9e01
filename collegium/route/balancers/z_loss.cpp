// Keeps the router's logits small: mean of squared logsumexp. Zoph 2022 (ST-MoE), eq. 5.
#include <ATen/ATen.h>

#include "collegium/route/losses.h"

namespace collegium::route {
namespace {

class ZLoss final : public Balancer, public Makes<ZLoss, Balancer> {
 public:
  using Interface = Balancer;
  struct Config {
    double coefficient = 0.001;
    void visit(Fields& field) { field("coefficient", coefficient, {.help = "weight of the loss", .min = 0}); }
  };
  ZLoss(const Config& config, const StageInputs&) : coefficient_(config.coefficient) {}

  std::vector<LossTerm> loss(const Scores& scores, const Decision&, const Context& context) override {
    const auto raw = z_loss(scores, context);
    return {{"z_loss", raw * coefficient_, raw.item<double>()}};
  }
  Needs needs() const override { return {.scores = {ScoreKind::softmax, ScoreKind::sigmoid, ScoreKind::relu}}; }

 private:
  double coefficient_;
};

}  // namespace

extern constinit const Entry<Balancer> balancer_z_loss =
    entry<ZLoss>({.name = "z_loss",
                  .paper = 106,
                  .source = "Zoph 2022 (ST-MoE), eq. 5",
                  .taxonomy = "training/stability/z-loss",
                  .summary = "keeps the router's logits small",
                  .equation = "L = α mean_t (log Σ_e exp ℓ_te)²,  ℓ = logits"});

}  // namespace collegium::route
