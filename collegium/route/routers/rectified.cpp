// Rectify-Router on a top-1 router: no token is dropped, and no slot left empty while there are tokens to fill it.
// P112, section 3. Weights are the softmax scores, of moved and filled-in experts, too. Which slots are free depends on
// the whole batch, so this router looks at later tokens.
#include "collegium/route/router.h"

namespace collegium::route {
namespace {

class RectifiedRouter final : public Preset<RectifiedRouter> {
 public:
  struct Config {
    int64_t k = 1;
    double capacity_factor = 1.0;
    int64_t n_devices = 1;
    bool rectify = true;
    bool fill = true;
    double balance_loss = 0.01;
    void visit(Fields& field) {
      field("k", k, {.help = "experts per token that are asked for", .unit = "experts", .min = 1});
      field("capacity_factor", capacity_factor,
            {.help = "slots per expert = capacity_factor * k * tokens / experts", .min = 1e-6});
      field("n_devices", n_devices, {.help = "devices that tokens and experts are divided over, in order", .min = 1});
      field("rectify", rectify,
            {.help = "what finds no slot goes to the best expert of its device, one with room first"});
      field("fill", fill, {.help = "free slots go to the tokens that score highest there"});
      field("balance_loss", balance_loss, {.help = "weight of the load-balancing loss", .min = 0});
    }
  };

  static Composition compose(const Config& c, const StageInputs&) {
    Composition out;
    out.scorer = {.name = "linear", .fields = table({{"activation", "softmax"}})};
    out.selector = {.name = "top_k", .fields = table({{"k", c.k}})};
    out.capacity = {
        .name = "rectify",
        .fields = table(
            {{"factor", c.capacity_factor}, {"n_devices", c.n_devices}, {"rectify", c.rectify}, {"fill", c.fill}})};
    out.gate = {.name = "score"};
    out.add_loss("balance_loss", c.balance_loss);
    return out;
  }
};

}  // namespace

extern constinit const Entry<Router> router_rectified = entry<RectifiedRouter>(
    {.name = "rectified",
     .paper = 112,
     .source = "Zeng 2024 (Turn Waste into Worth: Rectify-Router), section 3",
     .taxonomy = "gating/sparse/token choice",
     .summary = "top-1 whose dropped tokens move nearby and whose free slots are filled",
     .equation = "y = Σ_{e ∈ T} p_e FFN_e(x),  p = softmax(W x),  T = top-k(p), ⌈c k N / E⌉ tokens an expert\n"
                 "dropped t → argmax p_te on its device, e with room first;  free slot of e → argmax_t p_te;  L "
                 "= α balance_loss",
     .claims = {.is_causal = false}});

}  // namespace collegium::route
