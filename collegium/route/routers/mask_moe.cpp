// MaskMoE: top-k where rare token ids see one expert and frequent ones see all. P090, section 3. A token asks for its
// visible experts only, so a rare one asks for fewer than k.
#include "collegium/route/router.h"

namespace collegium::route {
namespace {

class MaskMoeRouter final : public Preset<MaskMoeRouter> {
 public:
  struct Config {
    int64_t k = 1;
    double frequent_share = 0.8;
    int64_t visible = 1;
    double balance_loss = 0.01;
    void visit(Fields& field) {
      field("k", k, {.help = "experts per token", .unit = "experts", .min = 1});
      field("frequent_share", frequent_share,
            {.help = "share of the training tokens that the frequent ids make up; they see all experts",
             .min = 0,
             .max = 1});
      field("visible", visible, {.help = "experts that a rare id sees", .unit = "experts", .min = 1});
      field("balance_loss", balance_loss, {.help = "weight of the load-balancing loss", .min = 0});
    }
  };

  static Composition compose(const Config& c, const StageInputs&) {
    Composition out;
    out.scorer = {.name = "frequency_mask",
                  .fields = table({{"frequent_share", c.frequent_share}, {"visible", c.visible}})};
    out.selector = {.name = "top_k", .fields = table({{"k", c.k}})};
    out.gate = {.name = "score"};
    out.add_loss("balance_loss", c.balance_loss);
    return out;
  }
};

}  // namespace

extern constinit const Entry<Router> router_mask_moe = entry<MaskMoeRouter>(
    {.name = "mask_moe",
     .paper = 90,
     .source = "Su 2024 (MaskMoE), section 3",
     .taxonomy = "gating/sparse/token choice",
     .summary = "top-k where rare tokens see one expert and frequent ones see all",
     .equation = "y = Σ_{e ∈ T} p_e FFN_e(x),  p = softmax(W x) over V(id),  T = top-k(p);  L = α balance_loss\n"
                 "V(id) = all experts for a frequent token id, `visible` hashed ones for a rare one",
     .claims = {.needs = {.token_ids = true}}});

}  // namespace collegium::route
