// LocMoE's routing: top-1 with a capacity, load balance, and a preference for experts on the token's own device. P070.
#include "collegium/route/router.h"

namespace collegium::route {
namespace {

class LocMoeRouter final : public Preset<LocMoeRouter> {
 public:
  struct Config {
    int64_t k = 1;
    int64_t n_devices = 2;
    double local = 0.8;
    double locality_loss = 0.01;
    double balance_loss = 0.01;
    double capacity_factor = 1.25, evaluation_capacity_factor = 2;
    void visit(Fields& field) {
      field("k", k, {.help = "experts per token", .unit = "experts", .min = 1});
      field("n_devices", n_devices, {.help = "devices that experts and sequences are spread over", .min = 1});
      field("local", local,
            {.help = "share of a token's probability that should stay on its device", .min = 0.001, .max = 0.999});
      field("locality_loss", locality_loss, {.help = "weight of the locality loss", .min = 0});
      field("balance_loss", balance_loss, {.help = "weight of the load-balancing loss", .min = 0});
      field("capacity_factor", capacity_factor,
            {.help = "slots per expert = capacity_factor * k * tokens / experts; 0 = no limit", .min = 0});
      field("evaluation_capacity_factor", evaluation_capacity_factor,
            {.help = "the same outside training (2 as Switch's authors have it); 0 = as in training", .min = 0});
    }
  };

  static Composition compose(const Config& c, const StageInputs&) {
    Composition out;
    out.scorer = {.name = "linear"};
    out.selector = {.name = "top_k", .fields = table({{"k", c.k}})};
    if (c.capacity_factor > 0)
      out.capacity = {.name = "factor",
                      .fields = table({{"factor", c.capacity_factor},
                                       {"evaluation_factor", c.evaluation_capacity_factor},
                                       {"priority", "position"}})};
    out.gate = {.name = "score"};
    out.balancers.push_back(
        {.name = "locality_loss",
         .fields = table({{"coefficient", c.locality_loss}, {"n_devices", c.n_devices}, {"local", c.local}})});
    out.add_loss("balance_loss", c.balance_loss);
    return out;
  }
};

}  // namespace

extern constinit const Entry<Router> router_loc_moe = entry<LocMoeRouter>(
    {.name = "loc_moe",
     .paper = 70,
     .source = "Li 2024 (LocMoE)",
     .taxonomy = "gating/sparse/token choice",
     .summary = "top-1 that keeps work on the token's own device while balancing the load",
     .equation = "y = Σ_{e ∈ T with room} p_e FFN_e(x),  p = softmax(W x),  T = top-k(p),  room: ⌈c k N / E⌉\n"
                 "L = α balance_loss + β Σ_h N_h / N · KL(mean p on device h ‖ Q_h),  Q_h: `local` stays on h"});

}  // namespace collegium::route
