// MoE-X's router: tokens go to the experts whose hidden units are predicted to be the sparsest for them. P022.
#include "collegium/route/router.h"

namespace collegium::route {
namespace {

class SparsityAwareRouter final : public Preset<SparsityAwareRouter> {
 public:
  struct Config {
    int64_t k = 2;
    double temperature = 1;
    double balance_loss = 0.01;
    void visit(Fields& field) {
      field("k", k, {.help = "experts per token", .unit = "experts", .min = 1});
      field("temperature", temperature, {.help = "divides the predictions, which lie in [-1, 1]", .min = 1e-6});
      field("balance_loss", balance_loss, {.help = "weight of the load-balancing loss", .min = 0});
    }
  };

  static Composition compose(const Config& c, const StageInputs&) {
    Composition out;
    out.scorer = {.name = "sparsity", .fields = table({{"temperature", c.temperature}})};
    out.selector = {.name = "top_k", .fields = table({{"k", c.k}})};
    out.gate = {.name = "normalised"};
    out.add_loss("balance_loss", c.balance_loss);
    return out;
  }
};

}  // namespace

extern constinit const Entry<Router> router_sparsity_aware = entry<SparsityAwareRouter>(
    {.name = "sparsity_aware",
     .paper = 22,
     .source = "Yang 2025 (MoE-X), sparsity-aware routing",
     .taxonomy = "gating/sparse/token choice",
     .summary = "tokens go to the experts whose hidden units should be the sparsest",
     .equation = "p = softmax(-erf(z) / τ),  z_e = ⟨μ_e, x⟩ / √(2 ⟨σ_e², x²⟩),  μ_e, σ_e²: weights into e's units\n"
                 "y = Σ_{e ∈ T} p_e / Σ_T p · FFN_e(x),  T = top-k(p);  L = α balance_loss",
     .claims = {.needs = {.experts = true, .unit_predictions = true}}});

}  // namespace collegium::route
