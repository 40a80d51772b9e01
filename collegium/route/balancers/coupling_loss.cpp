// Expert-router coupling (ERC): each expert's embedding in the router, slightly perturbed, stands for the tokens that
// are routed to it, and goes through every expert. M[i, j] = norm of expert j's hidden activations for proxy i.
// Penalised: proxy i excites another expert j more than its own, and expert i is excited more by a foreign proxy j:
//   L = mean over i != j of relu(M[i, j] - alpha M[i, i]) + relu(M[j, i] - alpha M[i, i]).
// The perturbation is multiplicative and uniform in [1 - e_i, 1 + e_i], e_i = |R_i - R_j| / (2 |R_i|) for the nearest
// other embedding R_j, so that a proxy stays nearer to its own embedding than to any other. P072, section 3.
//
// Assumed: activations are those that ExpertProbe::hidden gives (for gated experts the paper takes the gate's
// projection alone); the mean is over the pairs i != j (the paper divides by n^2); evaluation has no perturbation.
//
// E experts that work, D model width, I expert width. E^2 activations whatever the number of tokens.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <limits>

#include "collegium/route/stages.h"

namespace collegium::route {
namespace {

class CouplingLoss final : public Balancer, public Makes<CouplingLoss, Balancer> {
 public:
  using Interface = Balancer;
  struct Config {
    double coefficient = 1;
    double alpha = 1;
    bool noise = true;
    void visit(Fields& field) {
      field("coefficient", coefficient, {.help = "weight of the loss", .min = 0});
      field(
          "alpha", alpha,
          {.help = "share of its own activation that others may reach: lower = more specialised", .min = 0, .max = 1});
      field("noise", noise, {.help = "perturb the embeddings in training, up to half the distance to the nearest one"});
    }
  };
  CouplingLoss(const Config& config, const StageInputs& in) : config_(config), n_working_(in.n_experts - in.n_null) {}

  std::vector<LossTerm> loss(const Scores& scores, const Decision&, const Context& context) override {
    // Experts without work have no activations.
    const auto prototype_ED = scores.prototype_ED.slice(0, 0, n_working_);
    const auto raw =
        coupling(config_.noise && context.phase != Phase::evaluate ? perturbed(prototype_ED, context) : prototype_ED,
                 *context.experts);
    return {{"coupling_loss", raw * config_.coefficient, raw.item<double>()}};
  }
  Needs needs() const override { return {.context = {.experts = true}, .prototypes = true}; }

 private:
  static Tensor perturbed(const Tensor& prototype_ED, const Context& context) {
    Tensor bound_E1;
    {
      const at::NoGradGuard no_grad;
      const auto distance_EE = at::cdist(prototype_ED, prototype_ED, 2, /*compute_mode=*/2);
      distance_EE.fill_diagonal_(std::numeric_limits<double>::infinity());
      // A single expert has no neighbour, and nothing is compared.
      const auto nearest_E1 = std::get<0>(distance_EE.min(1, true)).nan_to_num(0, 0, 0);
      bound_E1 = nearest_E1 / (2 * prototype_ED.norm(2, 1, true)).clamp_min(1e-12);
    }
    const auto unit_ED =
        context.random.at("coupling").uniform(prototype_ED.sizes(), -1, 1, bound_E1.options().requires_grad(false));
    return prototype_ED * (1 + bound_E1 * unit_ED);
  }

  Tensor coupling(const Tensor& proxy_ED, ExpertProbe& experts) const {
    const auto E = proxy_ED.size(0);
    std::vector<Tensor> norm_by_expert;
    for (int64_t e = 0; e < E; ++e)
      norm_by_expert.push_back(at::linalg_vector_norm(experts.hidden(proxy_ED, e), 2, at::IntArrayRef{1}));
    const auto activation_EE = at::stack(norm_by_expert, 1);  // [proxy, expert]
    const auto own_E1 = config_.alpha * activation_EE.diagonal().unsqueeze(1);
    const auto excess_EE = (activation_EE - own_E1).relu() + (activation_EE.t() - own_E1).relu();
    const auto other_EE = 1 - at::eye(E, excess_EE.options().requires_grad(false));
    return (excess_EE * other_EE).sum() / static_cast<double>(std::max<int64_t>(E * (E - 1), 1));
  }

  Config config_;
  int64_t n_working_;
};

}  // namespace

extern constinit const Entry<Balancer> balancer_coupling_loss = entry<CouplingLoss>(
    {.name = "coupling_loss",
     .paper = 72,
     .source = "Lv 2025 (Expert-Router Coupling loss), section 3",
     .taxonomy = "training/auxiliary loss/coupling",
     .summary = "an expert answers most to its own router embedding, and that embedding to it",
     .equation = "L = α mean_{i ≠ j} (relu(M_ij - a M_ii) + relu(M_ji - a M_ii)),  M_ij = ‖hidden_j(r'_i)‖\n"
                 "r'_i = r_i ⊙ (1 + u),  |u| ≤ min_j ‖r_i - r_j‖ / (2 ‖r_i‖),  r_i = router embedding of expert i"});

}  // namespace collegium::route
