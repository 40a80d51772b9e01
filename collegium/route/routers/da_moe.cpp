// Top-k routing whose number of experts follows the token's importance in the layer's attention. P029.
// Weights are the softmax scores, as in Switch's router, which the paper extends: weights that sum to one would leave
// the tokens with one expert without a gradient for their router.
#include "collegium/route/router.h"

namespace collegium::route {
namespace {

class DaMoeRouter final : public Preset<DaMoeRouter> {
 public:
  struct Config {
    double budget = 2;
    int64_t min_k = 1;
    int64_t max_k = 4;
    double balance_loss = 0.01;
    void visit(Fields& field) {
      field("budget", budget, {.help = "experts per token on average", .unit = "experts", .min = 1});
      field("min_k", min_k, {.help = "experts of the least important tokens", .unit = "experts", .min = 1});
      field("max_k", max_k, {.help = "experts of the most important tokens", .unit = "experts", .min = 1});
      field("balance_loss", balance_loss, {.help = "weight of the load-balancing loss", .min = 0});
    }
  };

  static Composition compose(const Config& c, const StageInputs&) {
    Composition out;
    out.scorer = {.name = "linear"};
    out.selector = {.name = "importance_top_k",
                    .fields = table({{"budget", c.budget}, {"min_k", c.min_k}, {"max_k", c.max_k}})};
    out.gate = {.name = "score"};
    out.add_loss("balance_loss", c.balance_loss);
    return out;
  }
};

}  // namespace

extern constinit const Entry<Router> router_da_moe = entry<DaMoeRouter>(
    {.name = "da_moe",
     .paper = 29,
     .source = "Akhavan Aghdam 2024 (DA-MoE), section 3",
     .taxonomy = "gating/sparse/dynamic number of experts",
     .summary = "experts per token by its importance in the layer's attention",
     .equation = "y = Σ_{e ∈ T} p_e FFN_e(x),  p = softmax(W x),  T = top-k_t(p);  L = α balance_loss\n"
                 "k_t: from min_k to max_k by the rank so far of t's attention to itself, budget on average",
     .claims = {.needs = {.attention = true}}});

}  // namespace collegium::route
