// Input Domain Aware routing: a mixture of Gaussians over hidden states, trained by its own likelihood, decides; the
// task trains the experts alone. P010. Assumed: two experts a token, weights that sum to one, no balance loss (the
// equal weights of the mixture's parts stand for it).
#include "collegium/route/router.h"

namespace collegium::route {
namespace {

class DomainAwareRouter final : public Preset<DomainAwareRouter> {
 public:
  struct Config {
    int64_t k = 2;
    double coefficient = 0.1;
    int64_t dimension = 0;
    void visit(Fields& field) {
      field("k", k, {.help = "experts per token", .unit = "experts", .min = 1});
      field("coefficient", coefficient, {.help = "weight of the mixture's own loss", .min = 0});
      field("dimension", dimension,
            {.help = "width of a fixed random projection before the mixture; 0 = no projection", .min = 0});
    }
  };

  static Composition compose(const Config& c, const StageInputs&) {
    Composition out;
    out.scorer = {.name = "gaussian_mixture",
                  .fields = table({{"coefficient", c.coefficient}, {"dimension", c.dimension}})};
    out.selector = {.name = "top_k", .fields = table({{"k", c.k}})};
    out.gate = {.name = "normalised"};
    return out;
  }
};

}  // namespace

extern constinit const Entry<Router> router_domain_aware = entry<DomainAwareRouter>(
    {.name = "domain_aware",
     .paper = 10,
     .source = "Input Domain Aware MoE, 2025",
     .taxonomy = "gating/sparse/token choice",
     .summary = "top-k over a mixture model of hidden states, apart from the task",
     .equation = "p_e = N(z; μ_e, σ_e²) / Σ_j N(z; μ_j, σ_j²);  y = Σ_{e ∈ T} p_e / Σ_T p · FFN_e(x),  T = top-k(p)\n"
                 "L = -α mean log(Σ_e N(z; μ_e, σ_e²) / E) / width of z,  z = x / rms(x) without gradient"});

}  // namespace collegium::route
