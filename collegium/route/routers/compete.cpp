// Top-k routing by a router that learns the outcome of competitions between all experts. P060.
#include "collegium/route/router.h"

namespace collegium::route {
namespace {

class CompeteRouter final : public Preset<CompeteRouter> {
 public:
  struct Config {
    int64_t k = 2;
    double fraction = 0.07;
    double distillation = 1;
    double temperature = 1;
    double balance_loss = 0.01;
    void visit(Fields& field) {
      field("k", k, {.help = "experts per token", .unit = "experts", .min = 1});
      field("fraction", fraction, {.help = "share of training steps on which all experts compete", .min = 0, .max = 1});
      field("distillation", distillation, {.help = "weight of the router's imitation loss", .min = 0});
      field("temperature", temperature, {.help = "responses are divided by it before the softmax", .min = 1e-6});
      field("balance_loss", balance_loss, {.help = "weight of the load-balancing loss", .min = 0});
    }
  };

  static Composition compose(const Config& c, const StageInputs&) {
    Composition out;
    out.scorer = {
        .name = "competition",
        .fields = table({{"fraction", c.fraction}, {"distillation", c.distillation}, {"temperature", c.temperature}})};
    out.selector = {.name = "top_k", .fields = table({{"k", c.k}})};
    out.add_loss("balance_loss", c.balance_loss);
    return out;
  }
};

}  // namespace

extern constinit const Entry<Router> router_compete = entry<CompeteRouter>(
    {.name = "compete",
     .paper = 60,
     .source = "Pham 2024 and Nguyen 2025 (CompeteSMoE), section 3",
     .taxonomy = "gating/sparse/competition",
     .summary = "top-k by a router that imitates competitions between all experts",
     .equation = "p = softmax(W x), in some training steps softmax_e(mean softplus(FFN_e(x)) / τ);  T = top-k(p)\n"
                 "y = Σ_{e ∈ T} p_e / Σ_T p · FFN_e(x);  L = α balance_loss + δ mean (softmax(W x) - p)², p as given",
     .claims = {.needs = {.experts = true}}});

}  // namespace collegium::route
