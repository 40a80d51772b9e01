// The mean entropy of the tokens' scores, in nats: keeps a router that takes experts until it is sure from growing
// unsure of everything, which would choose them all. P059 (Huang 2024), eq. 7, weight 1e-4.
//
// N tokens, E experts.
#include <ATen/ATen.h>

#include "collegium/route/stages.h"

namespace collegium::route {
namespace {

class EntropyLoss final : public Balancer, public Makes<EntropyLoss, Balancer> {
 public:
  using Interface = Balancer;
  struct Config {
    double coefficient = 1e-4;
    void visit(Fields& field) { field("coefficient", coefficient, {.help = "weight of the loss", .min = 0}); }
  };
  EntropyLoss(const Config& config, const StageInputs&) : coefficient_(config.coefficient) {}

  std::vector<LossTerm> loss(const Scores& scores, const Decision&, const Context& context) override {
    const auto& score_NE = scores.score_NE;
    // p log p ends at 0; the bound keeps the gradient of the logarithm finite there.
    auto entropy_N = -(score_NE * score_NE.clamp_min(1e-30).log()).sum(1);
    if (context.mask_N.defined()) entropy_N = at::where(context.mask_N, entropy_N, at::zeros_like(entropy_N));
    const auto raw = entropy_N.sum() / static_cast<double>(std::max<int64_t>(1, n_real(context, score_NE.size(0))));
    return {{"entropy_loss", raw * coefficient_, raw.item<double>()}};
  }
  Needs needs() const override { return {.scores = {ScoreKind::softmax}}; }

 private:
  double coefficient_;
};

}  // namespace

extern constinit const Entry<Balancer> balancer_entropy_loss =
    entry<EntropyLoss>({.name = "entropy_loss",
                        .paper = 59,
                        .source = "Huang 2024 (Harder Tasks Need More Experts), section 3.3, eq. 7",
                        .taxonomy = "training/balance/sparsity control",
                        .summary = "the mean entropy of the tokens' scores: fewer experts under top-p",
                        .equation = "L = -α mean_t Σ_e p_te log p_te"});

}  // namespace collegium::route
