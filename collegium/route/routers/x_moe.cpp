// X-MoE's router: top-1 over cosines on a low-dimensional hypersphere, with Switch's balance loss. P019, section 3.
#include "collegium/route/router.h"

namespace collegium::route {
namespace {

class XMoeRouter final : public Preset<XMoeRouter> {
 public:
  struct Config {
    int64_t k = 1;
    int64_t dimension = 0;
    double temperature = 0.07;
    ScoreKind activation = ScoreKind::softmax;
    double balance_loss = 0.01;
    void visit(Fields& field) {
      field("k", k, {.help = "experts per token", .unit = "experts", .min = 1});
      field("dimension", dimension,
            {.help = "width of the space of the cosines; 0 = half the number of experts", .min = 0});
      field("temperature", temperature, {.help = "first value of the learned temperature", .min = 0.01});
      field("activation", activation, {.help = "score function: softmax or sigmoid"});
      field("balance_loss", balance_loss, {.help = "weight of the load-balancing loss", .min = 0});
    }
  };

  static Composition compose(const Config& c, const StageInputs&) {
    Composition out;
    const std::string activation(enum_names(c.activation)[static_cast<size_t>(c.activation)]);
    out.scorer = {
        .name = "cosine",
        .fields = table({{"activation", activation}, {"dimension", c.dimension}, {"temperature", c.temperature}})};
    out.selector = {.name = "top_k", .fields = table({{"k", c.k}})};
    // The gate is the score itself: section 2.1, so that top-1 has a gradient.
    out.gate = {.name = "score"};
    out.add_loss("balance_loss", c.balance_loss);
    return out;
  }
};

}  // namespace

extern constinit const Entry<Router> router_x_moe = entry<XMoeRouter>(
    {.name = "x_moe",
     .paper = 19,
     .source = "Chi 2022 (X-MoE), section 3",
     .taxonomy = "gating/sparse/token choice",
     .summary = "top-1 over cosines in a low-dimensional space, with a learned temperature",
     .equation = "y = Σ_{e ∈ T} p_e FFN_e(x),  p = softmax_e(cos(P x, w_e) / τ),  T = top-k(p);  L = α balance_loss\n"
                 "P: projection to half as many dimensions as experts, τ learned"});

}  // namespace collegium::route
