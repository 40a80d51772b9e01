// Expert choice: softmax over experts, then each expert takes its best tokens. P065.
#include "collegium/route/router.h"

namespace collegium::route {
namespace {

class ExpertChoiceRouter final : public Preset<ExpertChoiceRouter> {
 public:
  struct Config {
    double capacity_factor = 2.0;
    void visit(Fields& field) {
      field("capacity_factor", capacity_factor, {.help = "mean experts per token", .unit = "experts", .min = 1e-6});
    }
  };

  static Composition compose(const Config& c, const StageInputs&) {
    Composition out;
    out.scorer = {.name = "linear", .fields = table({{"activation", "softmax"}})};
    out.selector = {.name = "expert_choice", .fields = table({{"capacity_factor", c.capacity_factor}})};
    out.gate = {.name = "score"};
    return out;
  }
};

}  // namespace

extern constinit const Entry<Router> router_expert_choice = entry<ExpertChoiceRouter>(
    {.name = "expert_choice",
     .paper = 65,
     .source = "Zhou 2022 (Expert Choice), section 3.2",
     .taxonomy = "gating/sparse/expert choice",
     .summary = "each expert takes its own best tokens: equal loads without a loss",
     .equation = "y_t = Σ_{e : t ∈ T_e} p_te FFN_e(x_t),  p = softmax(W x)\n"
                 "T_e = the C tokens of largest p_te,  C = ⌈capacity_factor · N / E⌉",
     .claims = {.chooser = Chooser::expert, .is_exactly_balanced = true, .is_causal = false}});

}  // namespace collegium::route
