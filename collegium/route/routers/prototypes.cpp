// Expert prototyping: the experts are split into k prototypes and each token takes the best expert of every one, with
// a softmax inside each prototype: k independent top-1 routers. P114 (M6-T), section 3.3.
// Assumed: no balance loss, after the paper's finding that it does not help the loss of the model (section 3.1); the
// capacity is unlimited unless asked for.
#include "collegium/route/router.h"

namespace collegium::route {
namespace {

class PrototypesRouter final : public Preset<PrototypesRouter> {
 public:
  struct Config {
    int64_t prototypes = 2;
    double capacity_factor = 0;
    double balance_loss = 0;
    void visit(Fields& field) {
      field("prototypes", prototypes,
            {.help = "groups of experts, one expert a token in each", .unit = "groups", .min = 1});
      field("capacity_factor", capacity_factor,
            {.help = "slots per expert = capacity_factor * prototypes * tokens / experts; 0 = no limit", .min = 0});
      field("balance_loss", balance_loss, {.help = "weight of the load-balancing loss", .min = 0});
    }
  };

  static Composition compose(const Config& c, const StageInputs&) {
    Composition out;
    out.scorer = {.name = "linear", .fields = table({{"activation", "softmax"}})};
    out.selector = {
        .name = "grouped_top_k",
        .fields = table({{"groups", c.prototypes}, {"top_groups", c.prototypes}, {"k", 1}, {"within", "each"}})};
    if (c.capacity_factor > 0) out.capacity = {.name = "factor", .fields = table({{"factor", c.capacity_factor}})};
    out.gate = {.name = "group_share", .fields = table({{"groups", c.prototypes}})};
    out.add_loss("balance_loss", c.balance_loss);
    return out;
  }
};

}  // namespace

extern constinit const Entry<Router> router_prototypes = entry<PrototypesRouter>(
    {.name = "prototypes",
     .paper = 114,
     .source = "Yang 2021 (M6-T), section 3.3",
     .taxonomy = "gating/sparse/grouped",
     .summary = "k top-1 routers, each over its own share of the experts",
     .equation = "y = Σ_γ p_a FFN_a(x),  a = argmax_{e ∈ γ} p_e,  p = softmax(W x) inside each prototype γ"});

}  // namespace collegium::route
