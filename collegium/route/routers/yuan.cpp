// Yuan 2.0-M32's router: experts attend to each other, then the token takes its two best, weighted by the softmax of
// their logits. P079, the attention router. Assumed: Switch's balance loss, which the abstract does not mention and the
// authors' training script turns off. Layers of the published model are read by recipe/published.h, and
// presets/yuan_m32.toml has its sizes.
#include "collegium/route/router.h"

namespace collegium::route {
namespace {

class YuanRouter final : public Preset<YuanRouter> {
 public:
  struct Config {
    int64_t k = 2;
    double balance_loss = 0.01;
    void visit(Fields& field) {
      field("k", k, {.help = "experts per token", .unit = "experts", .min = 1});
      field("balance_loss", balance_loss, {.help = "weight of the load-balancing loss", .min = 0});
    }
  };

  static Composition compose(const Config& c, const StageInputs&) {
    Composition out;
    out.scorer = {.name = "expert_attention"};
    out.selector = {.name = "top_k", .fields = table({{"k", c.k}})};
    out.gate = {.name = "normalised"};
    out.add_loss("balance_loss", c.balance_loss);
    return out;
  }
};

}  // namespace

extern constinit const Entry<Router> router_yuan = entry<YuanRouter>(
    {.name = "yuan",
     .paper = 79,
     .source = "Wu 2024 (Yuan 2.0-M32), attention router",
     .taxonomy = "gating/sparse/token choice",
     .summary = "two experts a token, after the experts have attended to each other",
     .equation = "y = Σ_{e ∈ T} p_e / Σ_T p · FFN_e(x),  p = softmax_i(Σ_j softmax_j(q_i κ_j) v_j),  T = top-k(p)\n"
                 "(q, κ, v) = W x, a number each for every expert;  L = α balance_loss"});

}  // namespace collegium::route
