// Loss-free balancing: sigmoid scores, a bias per expert that selects and never weighs, no auxiliary loss. P084.
#include "collegium/route/router.h"

namespace collegium::route {
namespace {

class LossFreeRouter final : public Preset<LossFreeRouter> {
 public:
  struct Config {
    int64_t k = 2;
    double rate = 0.001;
    bool normalise = true;
    double scale = 1;
    void visit(Fields& field) {
      field("k", k, {.help = "experts per token", .unit = "experts", .min = 1});
      field("rate", rate, {.help = "how far a bias moves per optimiser step", .unit = "score", .min = 0});
      field("normalise", normalise, {.help = "a token's weights sum to `scale`"});
      field("scale", scale, {.help = "multiplies every weight"});
    }
  };

  static Composition compose(const Config& c, const StageInputs&) {
    Composition out;
    out.scorer = {.name = "linear", .fields = table({{"activation", "sigmoid"}})};
    out.selector = {.name = "top_k", .fields = table({{"k", c.k}})};
    out.gate = {.name = c.normalise ? "normalised" : "score", .fields = table({{"scale", c.scale}})};
    out.balancers = {{.name = "loss_free_bias", .fields = table({{"rate", c.rate}})}};
    return out;
  }
};

}  // namespace

extern constinit const Entry<Router> router_loss_free = entry<LossFreeRouter>(
    {.name = "loss_free",
     .paper = 84,
     .source = "Wang 2024 (Auxiliary-Loss-Free Load Balancing), section 3",
     .taxonomy = "gating/sparse/token choice",
     .summary = "sigmoid top-k, balanced by a selection bias instead of a loss",
     .equation = "y = scale Σ_{e ∈ T} s_e / Σ_T s · FFN_e(x),  s = sigmoid(W x),  T = top-k(s + b)\n"
                 "b_e ← b_e + rate · sign(mean_j n_j - n_e) after each step,  n_e = tokens that asked for e"});

}  // namespace collegium::route
