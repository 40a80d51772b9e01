// SAM: Switch takes one group of experts (a device), Mixture takes k experts inside it, so a token crosses the network
// once however many experts work on it. P055, section 3.
// Assumed: one softmax over all experts serves both levels. A group's probability is the sum over its experts, an
// expert's weight is its own probability = P(group) P(expert | group), so both levels learn from the task.
#include "collegium/route/router.h"

namespace collegium::route {
namespace {

class SwitchMixtureRouter final : public Preset<SwitchMixtureRouter> {
 public:
  struct Config {
    int64_t groups = 2;
    int64_t k = 2;
    double capacity_factor = 0;
    double balance_loss = 0.01;
    void visit(Fields& field) {
      field("groups", groups, {.help = "groups of neighbouring experts, one a device", .unit = "groups", .min = 1});
      field("k", k, {.help = "experts per token, all of one group", .unit = "experts", .min = 1});
      field("capacity_factor", capacity_factor,
            {.help = "slots per expert = capacity_factor * k * tokens / experts; 0 = no limit", .min = 0});
      field("balance_loss", balance_loss, {.help = "weight of the load-balancing loss", .min = 0});
    }
  };

  static Composition compose(const Config& c, const StageInputs&) {
    Composition out;
    out.scorer = {.name = "linear", .fields = table({{"activation", "softmax"}})};
    out.selector = {
        .name = "grouped_top_k",
        .fields =
            table({{"groups", c.groups}, {"top_groups", 1}, {"k", c.k}, {"group_score", "sum"}, {"within", "each"}})};
    if (c.capacity_factor > 0) out.capacity = {.name = "factor", .fields = table({{"factor", c.capacity_factor}})};
    out.gate = {.name = "score"};
    out.add_loss("balance_loss", c.balance_loss);
    return out;
  }
};

}  // namespace

extern constinit const Entry<Router> router_switch_mixture = entry<SwitchMixtureRouter>(
    {.name = "switch_mixture",
     .paper = 55,
     .source = "Jiang 2021 (SAM), section 3",
     .taxonomy = "gating/sparse/grouped",
     .summary = "one group of experts a token, several experts mixed inside it",
     .equation = "y = Σ_{e ∈ T} p_e FFN_e(x),  p = softmax(W x),  T = top-k(p in γ);  L = α balance_loss\n"
                 "γ = the group of largest Σ_{e ∈ γ} p_e"});

}  // namespace collegium::route
