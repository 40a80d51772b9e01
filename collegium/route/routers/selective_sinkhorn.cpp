// Selective Sinkhorn routing: top-k over softmax scores, which a share of training passes replaces by the transport
// plan that balances the experts; no auxiliary loss. P043. In those passes a token's scores depend on the whole batch;
// evaluation and generation do not.
#include "collegium/route/router.h"

namespace collegium::route {
namespace {

class SelectiveSinkhornRouter final : public Preset<SelectiveSinkhornRouter> {
 public:
  struct Config {
    int64_t k = 2;
    double epsilon = 0.5;
    int64_t iterations = 10;
    double share = 0.1;
    void visit(Fields& field) {
      field("k", k, {.help = "experts per token", .unit = "experts", .min = 1});
      field("epsilon", epsilon,
            {.help = "entropy of the plan: logits are divided by it", .unit = "logit", .min = 1e-3});
      field("iterations", iterations, {.help = "rounds of scaling, experts then tokens", .min = 1});
      field("share", share,
            {.help = "share of training passes that use the plan; 1 = plain Sinkhorn routing", .min = 0, .max = 1});
    }
  };

  static Composition compose(const Config& c, const StageInputs&) {
    Composition out;
    out.scorer = {.name = "sinkhorn",
                  .fields = table({{"of", table({{"name", "linear"}})},
                                   {"epsilon", c.epsilon},
                                   {"iterations", c.iterations},
                                   {"share", c.share}})};
    out.selector = {.name = "top_k", .fields = table({{"k", c.k}})};
    out.gate = {.name = "normalised"};
    return out;
  }
};

}  // namespace

extern constinit const Entry<Router> router_selective_sinkhorn = entry<SelectiveSinkhornRouter>(
    {.name = "selective_sinkhorn",
     .paper = 43,
     .source = "Nguyen 2025 (Selective Sinkhorn Routing), section 4",
     .taxonomy = "gating/sparse/optimal transport",
     .summary = "top-k that a share of training passes balances by optimal transport",
     .equation = "y = Σ_{e ∈ T} p_e / Σ_T p · FFN_e(x),  T = top-k(p),  p = softmax(ℓ),  ℓ = W x\n"
                 "share of training passes: p_te = u_t v_e exp(ℓ_te / ε) with Σ_e p_te = 1, Σ_t p_te ≈ N / E",
     .claims = {.is_causal_in_training = false}});

}  // namespace collegium::route
