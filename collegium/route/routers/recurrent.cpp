// RMoE's router: top-k over scores that a GRU carries from layer to layer. P103, section 3.
#include "collegium/route/router.h"

namespace collegium::route {
namespace {

class RecurrentRouter final : public Preset<RecurrentRouter> {
 public:
  struct Config {
    int64_t k = 2;
    int64_t d_state = 0;
    double balance_loss = 0.01;
    void visit(Fields& field) {
      field("k", k, {.help = "experts per token", .unit = "experts", .min = 1});
      field("d_state", d_state,
            {.help = "width of what is carried from layer to layer; 0 = a quarter of d_model", .min = 0});
      field("balance_loss", balance_loss, {.help = "weight of the load-balancing loss", .min = 0});
    }
  };

  static Composition compose(const Config& c, const StageInputs&) {
    Composition out;
    out.scorer = {.name = "recurrent", .fields = table({{"d_state", c.d_state}})};
    out.selector = {.name = "top_k", .fields = table({{"k", c.k}})};
    out.gate = {.name = "normalised"};
    out.add_loss("balance_loss", c.balance_loss);
    return out;
  }
};

}  // namespace

extern constinit const Entry<Router> router_recurrent = entry<RecurrentRouter>(
    {.name = "recurrent",
     .paper = 103,
     .source = "Qiu 2024 (RMoE), section 3",
     .taxonomy = "gating/sparse/token choice",
     .summary = "top-k over scores that a GRU carries from layer to layer",
     .equation = "y = Σ_{e ∈ T} p_e / Σ_T p · FFN_e(x),  p = softmax(W r_i),  T = top-k(p);  L = α balance_loss\n"
                 "r_i = GRU(P x_i, r_{i-1}),  i = layers with experts from below, r_0 = 0"});

}  // namespace collegium::route
