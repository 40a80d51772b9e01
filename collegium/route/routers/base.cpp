// BASE layers: in training an optimal balanced assignment of one expert a token, in evaluation the best expert; the
// weight is the sigmoid of the token's dot product with the expert (eq. 1). No loss, no capacity, nothing to tune.
// P073, section 3. In training a token's expert depends on the rest of the batch, later tokens included; held-out loss
// and generation do not. The first weights are as long as the authors' (fairseq, base_layer.py: orthogonal rows of
// gain 0.1), which is a variance of 0.01 / d_model.
#include "collegium/route/router.h"

namespace collegium::route {
namespace {

class BaseRouter final : public Preset<BaseRouter> {
 public:
  struct Config {
    double epsilon = 1e-3;
    double init_scale = 0.01;
    void visit(Fields& field) {
      field("epsilon", epsilon,
            {.help = "the assignment's value per token is at most this below the best", .unit = "logit", .min = 1e-9});
      field("init_scale", init_scale, {.help = "variance of the router's first weights, times d_model", .min = 0});
    }
  };

  static Composition compose(const Config& c, const StageInputs&) {
    Composition out;
    out.scorer = {.name = "linear", .fields = table({{"activation", "sigmoid"}, {"init_scale", c.init_scale}})};
    out.selector = {.name = "balanced_assignment", .fields = table({{"epsilon", c.epsilon}})};
    out.gate = {.name = "score"};
    return out;
  }
};

}  // namespace

extern constinit const Entry<Router> router_base = entry<BaseRouter>(
    {.name = "base",
     .paper = 73,
     .source = "Lewis 2021 (BASE layers), section 3",
     .taxonomy = "gating/sparse/balanced assignment",
     .summary = "optimal balanced assignment in training, the best expert in evaluation, no loss",
     .equation = "y = sigmoid(ℓ_a) FFN_a(x),  ℓ = W x;  evaluation: a = argmax ℓ\n"
                 "training: a maximises Σ_t ℓ_{t, a(t)} with ⌊N / E⌋ or ⌈N / E⌉ tokens for every expert",
     .claims = {.is_causal_in_training = false}});

}  // namespace collegium::route
