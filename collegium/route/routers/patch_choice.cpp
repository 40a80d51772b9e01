// pMoE's patch-level routing: each expert scores all patches of an image by itself, takes its l best, and weighs them
// by a softmax among those. P089.
#include "collegium/route/router.h"

namespace collegium::route {
namespace {

class PatchChoiceRouter final : public Preset<PatchChoiceRouter> {
 public:
  struct Config {
    int64_t l = 4;
    double init_scale = 0.1;
    void visit(Fields& field) {
      field("l", l, {.help = "patches that each expert takes of each image", .unit = "patches", .min = 1});
      field("init_scale", init_scale,
            {.help = "weights start normal with standard deviation sqrt(init_scale / d_model)", .min = 0});
    }
  };

  static Composition compose(const Config& c, const StageInputs&) {
    Composition out;
    // Sigmoid keeps the order of an expert's own logits, so that experts choose without regard to each other.
    out.scorer = {.name = "linear", .fields = table({{"activation", "sigmoid"}, {"init_scale", c.init_scale}})};
    out.selector = {.name = "patch_choice", .fields = table({{"l", c.l}})};
    out.gate = {.name = "choice_softmax"};
    return out;
  }
};

}  // namespace

extern constinit const Entry<Router> router_patch_choice = entry<PatchChoiceRouter>(
    {.name = "patch_choice",
     .paper = 89,
     .source = "Chowdhury 2023 (pMoE)",
     .taxonomy = "gating/sparse/expert choice",
     .summary = "each expert takes its l best patches of every image; the rest is left out",
     .equation = "y_t = Σ_{e : t ∈ T_e} g_te FFN_e(x_t),  g_te = exp ℓ_te / Σ_{u ∈ T_e} exp ℓ_ue,  ℓ = W x\n"
                 "T_e = the l patches of largest ℓ_te, of each image",
     .claims = {.chooser = Chooser::expert, .is_exactly_balanced = true, .is_causal = false}});

}  // namespace collegium::route
