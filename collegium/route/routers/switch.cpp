// Switch Transformer's router: top-1, capacity factor, load-balancing loss, jitter, router in float32. P106.
#include "collegium/route/router.h"

namespace collegium::route {
namespace {

class SwitchRouter final : public Preset<SwitchRouter> {
 public:
  struct Config {
    double capacity_factor = 1.25;
    double evaluation_capacity_factor = 2;
    double balance_loss = 0.01;
    double z_loss = 0;
    double jitter = 0.01;
    void visit(Fields& field) {
      field("capacity_factor", capacity_factor,
            {.help = "slots per expert = capacity_factor * tokens / experts; 0 = no limit", .min = 0});
      field("evaluation_capacity_factor", evaluation_capacity_factor,
            {.help = "the same outside training (the authors' code has 2); 0 = as in training", .min = 0});
      field("balance_loss", balance_loss, {.help = "weight of the load-balancing loss", .min = 0});
      field("z_loss", z_loss, {.help = "weight of the z-loss", .min = 0});
      field("jitter", jitter, {.help = "input noise in training, [1 - jitter, 1 + jitter]", .min = 0, .max = 1});
    }
  };

  static Composition compose(const Config& c, const StageInputs&) {
    Composition out;
    out.scorer = {.name = "linear", .fields = table({{"activation", "softmax"}, {"jitter", c.jitter}})};
    out.selector = {.name = "top_k", .fields = table({{"k", 1}})};
    out.capacity = {.name = "unlimited"};
    if (c.capacity_factor > 0)
      out.capacity = {.name = "factor",
                      .fields = table({{"factor", c.capacity_factor},
                                       {"evaluation_factor", c.evaluation_capacity_factor},
                                       {"priority", "position"}})};
    out.gate = {.name = "score"};
    out.add_loss("balance_loss", c.balance_loss);
    out.add_loss("z_loss", c.z_loss);
    return out;
  }
};

}  // namespace

extern constinit const Entry<Router> router_switch = entry<SwitchRouter>(
    {.name = "switch",
     .paper = 106,
     .source = "Fedus 2021 (Switch Transformer), section 2",
     .taxonomy = "gating/sparse/token choice",
     .summary = "top-1 routing with a capacity factor and a load-balancing loss",
     .equation = "y = p_a FFN_a(x),  p = softmax(W x),  a = argmax p;  0 where a has C = ⌈c N / E⌉ tokens already\n"
                 "L = α E Σ_e f_e P_e,  f = shares of choices, P = mean p"});

}  // namespace collegium::route
