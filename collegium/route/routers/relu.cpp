// ReMoE: ReLU scores, every expert above zero works, an adaptive L1 norm steers how many that are. P095.
#include "collegium/route/router.h"

namespace collegium::route {
namespace {

class ReluRouter final : public Preset<ReluRouter> {
 public:
  struct Config {
    double target_k = 2;
    double start = 1e-8;
    double growth = 1.2;
    double init_scale = 1.0;
    void visit(Fields& field) {
      field("target_k", target_k, {.help = "mean active experts per token to reach", .unit = "experts", .min = 1e-6});
      field("start", start, {.help = "first strength of the regulariser", .min = 0});
      field("growth", growth, {.help = "factor by which the strength moves each step", .min = 1});
      field("init_scale", init_scale, {.help = "variance of the router's first weights, times d_model", .min = 0});
    }
  };

  static Composition compose(const Config& c, const StageInputs&) {
    Composition out;
    out.scorer = {.name = "linear", .fields = table({{"activation", "relu"}, {"init_scale", c.init_scale}})};
    out.selector = {.name = "positive", .fields = table({{"expected_k", c.target_k}})};
    out.gate = {.name = "score"};
    out.balancers = {
        {.name = "adaptive_l1", .fields = table({{"target_k", c.target_k}, {"start", c.start}, {"growth", c.growth}})}};
    return out;
  }
};

}  // namespace

extern constinit const Entry<Router> router_relu = entry<ReluRouter>(
    {.name = "relu",
     .paper = 95,
     .source = "Wang 2024 (ReMoE), section 3",
     .taxonomy = "gating/sparse/dynamic",
     .summary = "ReLU scores: as many experts as a token needs, fully differentiable",
     .equation = "y = Σ_{e : s_e > 0} s_e FFN_e(x),  s = relu(W x);  L = λ / N Σ_t Σ_e f_e s_te,  f_e = E n_e / (k N)\n"
                 "after each step λ ← λ · growth^sign(Σ_e n_e / N - k),  n_e = tokens of e, k = target_k"});

}  // namespace collegium::route
