// AdaMoE: null experts that do no work join the experts, and k grows. A token that chooses null experts works less; a
// balance loss that treats them alike steers how often that is: with an even load a token meets
// k * experts / (experts + null experts) true ones. Weights are shares of the true experts' scores. P087, section 3.
// A token whose choices are all null passes by the layer on the residual path.
// The paper adds this to a pretrained MoE (new router columns for the null experts, then fine-tuning); here the router
// is trained from the start.
#include "collegium/route/router.h"

namespace collegium::route {
namespace {

class AdaMoeRouter final : public Preset<AdaMoeRouter> {
 public:
  struct Config {
    int64_t k = 3;
    int64_t null_experts = 8;
    double balance_loss = 0.01;
    double z_loss = 0;
    void visit(Fields& field) {
      field("k", k, {.help = "experts per token, null ones included", .unit = "experts", .min = 1});
      field("null_experts", null_experts, {.help = "experts that do no work", .unit = "experts", .min = 0});
      field("balance_loss", balance_loss, {.help = "weight of the load-balancing loss", .min = 0});
      field("z_loss", z_loss, {.help = "weight of the z-loss", .min = 0});
    }
  };

  static Composition compose(const Config& c, const StageInputs&) {
    Composition out;
    out.scorer = {.name = "linear", .fields = table({{"activation", "softmax"}})};
    out.selector = {.name = "top_k", .fields = table({{"k", c.k}})};
    out.gate = {.name = "normalised"};
    out.null_experts = c.null_experts;
    out.add_loss("null_balance_loss", c.balance_loss);
    out.add_loss("z_loss", c.z_loss);
    return out;
  }
};

}  // namespace

extern constinit const Entry<Router> router_ada_moe = entry<AdaMoeRouter>(
    {.name = "ada_moe",
     .paper = 87,
     .source = "Zeng 2024 (AdaMoE), section 3",
     .taxonomy = "gating/sparse/dynamic",
     .summary = "null experts that do no work, a larger k, and a loss that treats them alike",
     .equation = "p = softmax(W x),  T = top-k(p) without null experts;  y = Σ_{e ∈ T} p_e / Σ_T p · FFN_e(x)\n"
                 "L = α E' Σ_e f_e P_e,  f = shares of choices (null ones: their mean),  P = mean p,  E' = all"});

}  // namespace collegium::route
