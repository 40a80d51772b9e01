// The common router: softmax scores, k experts per token, weights that sum to one, Switch's loss for k choices.
// Shazeer 2017, section 2.1; Jiang 2024 (Mixtral), section 2.1; the loss: P106 (Switch Transformer), section 2.2.
#include "collegium/route/router.h"

namespace collegium::route {
namespace {

class TopKRouter final : public Preset<TopKRouter> {
 public:
  struct Config {
    int64_t k = 2;
    double capacity_factor = 0;
    double balance_loss = 0.01;
    double z_loss = 0.001;
    double jitter = 0;
    void visit(Fields& field) {
      field("k", k, {.help = "experts per token", .unit = "experts", .min = 1});
      field("capacity_factor", capacity_factor,
            {.help = "slots per expert = capacity_factor * k * tokens / experts; 0 = no limit", .min = 0});
      field("balance_loss", balance_loss, {.help = "weight of the load-balancing loss", .min = 0});
      field("z_loss", z_loss, {.help = "weight of the z-loss", .min = 0});
      field("jitter", jitter, {.help = "input noise in training, [1 - jitter, 1 + jitter]", .min = 0, .max = 1});
    }
  };

  static Composition compose(const Config& c, const StageInputs&) {
    Composition out;
    out.scorer = {.name = "linear", .fields = table({{"activation", "softmax"}, {"jitter", c.jitter}})};
    out.selector = {.name = "top_k", .fields = table({{"k", c.k}})};
    out.capacity = {.name = "unlimited"};
    if (c.capacity_factor > 0)
      out.capacity = {.name = "factor", .fields = table({{"factor", c.capacity_factor}, {"priority", "position"}})};
    out.gate = {.name = "normalised"};
    out.add_loss("balance_loss", c.balance_loss);
    out.add_loss("z_loss", c.z_loss);
    return out;
  }
};

}  // namespace

extern constinit const Entry<Router> router_top_k = entry<TopKRouter>(
    {.name = "top_k",
     .paper = 106,
     .source = "Shazeer 2017, section 2.1; Jiang 2024 (Mixtral), section 2.1",
     .taxonomy = "gating/sparse/token choice",
     .summary = "softmax scores, k experts per token, weights that sum to one",
     .equation = "y = Σ_{e ∈ T} p_e / Σ_T p · FFN_e(x),  p = softmax(W x),  T = top-k(p)\n"
                 "L = α E Σ_e f_e P_e + β mean (log Σ_e exp(W x)_e)²,  f = shares of choices, P = mean p"});

}  // namespace collegium::route
