// Top-k routing over a pool of experts that grows during training: ReXMoE's router for layers that share their experts
// (`share_experts` of the decoder). P023.
#include "collegium/route/router.h"

namespace collegium::route {
namespace {

class ProgressiveRouter final : public Preset<ProgressiveRouter> {
 public:
  struct Config {
    int64_t k = 2;
    int64_t start = 0;
    int64_t steps = 1000;
    double balance_loss = 0.01;
    double z_loss = 0.001;
    void visit(Fields& field) {
      field("k", k, {.help = "experts per token", .unit = "experts", .min = 1});
      field("start", start, {.help = "optimiser steps with the layer's own experts alone", .unit = "steps", .min = 0});
      field("steps", steps,
            {.help = "steps from then on until every expert is a candidate; 0 = at once", .unit = "steps", .min = 0});
      field("balance_loss", balance_loss, {.help = "weight of the load-balancing loss", .min = 0});
      field("z_loss", z_loss, {.help = "weight of the z-loss", .min = 0});
    }
  };

  static Composition compose(const Config& c, const StageInputs& in) {
    const auto n_own = in.n_own > 0 ? in.n_own : in.n_experts;
    require(c.k <= n_own, "progressive: k = ", c.k, " is more than the ", n_own, " experts that a layer begins with");
    Composition out;
    out.scorer = {.name = "progressive", .fields = table({{"start", c.start}, {"steps", c.steps}})};
    out.selector = {.name = "top_k", .fields = table({{"k", c.k}})};
    out.gate = {.name = "normalised"};
    out.add_loss("balance_loss", c.balance_loss);
    out.add_loss("z_loss", c.z_loss);
    return out;
  }
};

}  // namespace

extern constinit const Entry<Router> router_progressive = entry<ProgressiveRouter>(
    {.name = "progressive",
     .paper = 23,
     .source = "Tan 2025 (ReXMoE), progressive scaling routing",
     .taxonomy = "gating/sparse/token choice",
     .summary = "top-k over a pool that grows from the layer's own experts to its neighbours'",
     .equation = "y = Σ_{e ∈ T} p_e / Σ_T p · FFN_e(x),  p = softmax(W x) over the first n experts,  T = top-k(p)\n"
                 "n grows from the layer's own experts to all of the pool;  L = α balance_loss + β z_loss"});

}  // namespace collegium::route
