// The free composition: every stage written out in the recipe. `collegium show` prints any preset in this form. The
// stages are the axes of routing in P025 (survey of mixtures of experts).
#include "collegium/route/router.h"

namespace collegium::route {
namespace {

class StagesRouter final : public Preset<StagesRouter> {
 public:
  using Config = Composition;
  static Composition compose(const Composition& composition, const StageInputs&) { return composition; }
};

}  // namespace

extern constinit const Entry<Router> router_stages = entry<StagesRouter>(
    {.name = "stages",
     .paper = 25,
     .source = "the stage contract: any scorer, selector, capacity, gate and balancers",
     .taxonomy = "gating/sparse/composed",
     .summary = "a router written out stage by stage",
     .equation = "y = Σ_{e ∈ T} g_e FFN_e(x),  T = capacity(selector(s, b)),  g = gate(s, T),  s = scorer(x)\n"
                 "b = Σ biases and L = Σ losses of the balancers"});

}  // namespace collegium::route
