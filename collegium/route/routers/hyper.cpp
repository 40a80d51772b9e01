// HyperRouter: top-2 routing whose weight a fixed hypernetwork generates from a trained embedding. P075, section 3.
#include "collegium/route/router.h"

namespace collegium::route {
namespace {

class HyperRouter final : public Preset<HyperRouter> {
 public:
  struct Config {
    int64_t k = 2;
    int64_t hidden = 256;
    bool frozen = false;
    double balance_loss = 0.01;
    void visit(Fields& field) {
      field("k", k, {.help = "experts per token", .unit = "experts", .min = 1});
      field("hidden", hidden, {.help = "hidden width of the hypernetwork", .min = 1});
      field("frozen", frozen, {.help = "the embedding is not trained, so the router never is"});
      field("balance_loss", balance_loss, {.help = "weight of the load-balancing loss", .min = 0});
    }
  };

  static Composition compose(const Config& c, const StageInputs&) {
    Composition out;
    out.scorer = {.name = "hyper", .fields = table({{"hidden", c.hidden}, {"frozen", c.frozen}})};
    out.selector = {.name = "top_k", .fields = table({{"k", c.k}})};
    out.gate = {.name = "normalised"};
    out.add_loss("balance_loss", c.balance_loss);
    return out;
  }
};

}  // namespace

extern constinit const Entry<Router> router_hyper = entry<HyperRouter>(
    {.name = "hyper",
     .paper = 75,
     .source = "Do 2023 (HyperRouter), section 3",
     .taxonomy = "gating/sparse/token choice",
     .summary = "top-k with a router weight that a fixed random network generates",
     .equation = "y = Σ_{e ∈ T} p_e / Σ_T p · FFN_e(x),  p = softmax(W x),  T = top-k(p);  L = α balance_loss\n"
                 "W = H₂ relu(H₁ v),  v learned, H₁ and H₂ random and fixed"});

}  // namespace collegium::route
