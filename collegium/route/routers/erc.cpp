// Top-k routing whose router embeddings are coupled to the experts by an auxiliary loss. P072.
#include "collegium/route/router.h"

namespace collegium::route {
namespace {

class ErcRouter final : public Preset<ErcRouter> {
 public:
  struct Config {
    int64_t k = 2;
    double coupling = 1;
    double alpha = 1;
    double balance_loss = 0.01;
    void visit(Fields& field) {
      field("k", k, {.help = "experts per token", .unit = "experts", .min = 1});
      field("coupling", coupling, {.help = "weight of the coupling loss", .min = 0});
      field(
          "alpha", alpha,
          {.help = "share of its own activation that others may reach: lower = more specialised", .min = 0, .max = 1});
      field("balance_loss", balance_loss, {.help = "weight of the load-balancing loss", .min = 0});
    }
  };

  static Composition compose(const Config& c, const StageInputs&) {
    Composition out;
    out.scorer = {.name = "linear"};
    out.selector = {.name = "top_k", .fields = table({{"k", c.k}})};
    out.balancers.push_back(
        {.name = "coupling_loss", .fields = table({{"coefficient", c.coupling}, {"alpha", c.alpha}})});
    out.add_loss("balance_loss", c.balance_loss);
    return out;
  }
};

}  // namespace

extern constinit const Entry<Router> router_erc = entry<ErcRouter>(
    {.name = "erc",
     .paper = 72,
     .source = "Lv 2025 (Expert-Router Coupling loss), section 3",
     .taxonomy = "gating/sparse/token choice",
     .summary = "top-k routing with router embeddings coupled to what experts answer to",
     .equation = "y = Σ_{e ∈ T} p_e / Σ_T p · FFN_e(x),  p = softmax(R x),  T = top-k(p);  h_j = hidden units of j\n"
                 "L = α balance_loss + β mean_{i ≠ j} (relu(M_ij - a M_ii) + relu(M_ji - a M_ii)),  M_ij = ‖h_j(R_i)‖",
     .claims = {.needs = {.experts = true}}});

}  // namespace collegium::route
