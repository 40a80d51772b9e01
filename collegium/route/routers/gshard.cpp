// GShard's top-2 router: first choices get the slots before second ones, and its own loss counts first choices.
// Lepikhin 2020 (GShard), algorithm 1; the baseline of P106 (Switch Transformer), section 2.2.
#include "collegium/route/router.h"

namespace collegium::route {
namespace {

class GShardRouter final : public Preset<GShardRouter> {
 public:
  struct Config {
    double capacity_factor = 2.0;
    double balance_loss = 0.01;
    void visit(Fields& field) {
      field("capacity_factor", capacity_factor,
            {.help = "slots per expert = capacity_factor * tokens / experts (GShard uses 2, one per choice)",
             .min = 1e-6});
      field("balance_loss", balance_loss,
            {.help = "weight of the loss in units of Switch's (GShard's own is 1 / experts^2 of it)", .min = 0});
    }
  };

  static Composition compose(const Config& c, const StageInputs& in) {
    const auto squared = static_cast<double>(in.n_experts * in.n_experts);
    Composition out;
    out.scorer = {.name = "linear", .fields = table({{"activation", "softmax"}})};
    out.selector = {.name = "top_k", .fields = table({{"k", 2}})};
    // The stage counts what is asked (two per token); GShard counts tokens.
    out.capacity = {.name = "factor", .fields = table({{"factor", c.capacity_factor / 2}, {"priority", "rank"}})};
    out.gate = {.name = "normalised"};
    if (c.balance_loss > 0)
      out.balancers.push_back({.name = "balance_loss",
                               .fields = table({{"coefficient", c.balance_loss * squared}, {"convention", "gshard"}})});
    return out;
  }
};

}  // namespace

extern constinit const Entry<Router> router_gshard = entry<GShardRouter>(
    {.name = "gshard",
     .paper = 106,
     .source = "Lepikhin 2020 (GShard), algorithm 1; the baseline of P106",
     .taxonomy = "gating/sparse/token choice",
     .summary = "top-2 routing, first choices before second ones, loss over first choices",
     .equation = "y = Σ_{e ∈ T with room} p_e / Σ_T p · FFN_e(x),  p = softmax(W x),  T = top-2(p)\n"
                 "L = α E Σ_e f_e P_e,  f = shares of first choices, P = mean p;  room: ⌈c N / E⌉ tokens an expert",
     .claims = {.is_causal = false}});

}  // namespace collegium::route
