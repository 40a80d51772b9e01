// DeepSeek-V3's router: sigmoid scores, a selection bias instead of a loss, groups (nodes) ranked by the sum of their
// two best scores, k experts over the groups taken. Weights are shares of the chosen scores, times a constant.
// Belongs to the family of P055 (one place, several experts); source DeepSeek-V3, section 2.1.2. There: 256 experts in
// 8 groups, 4 of them, k = 8, rate 0.001, scale 2.5; the defaults here fit four experts. The small sequence-wise loss
// of eq. 17 is off unless asked for.
#include "collegium/route/router.h"

namespace collegium::route {
namespace {

class GroupLimitedRouter final : public Preset<GroupLimitedRouter> {
 public:
  struct Config {
    int64_t groups = 2;
    int64_t top_groups = 1;
    int64_t k = 2;
    double rate = 0.001;
    double scale = 1;
    double balance_loss = 0;
    void visit(Fields& field) {
      field("groups", groups, {.help = "groups of neighbouring experts, one a node", .unit = "groups", .min = 1});
      field("top_groups", top_groups, {.help = "groups that a token may use", .unit = "groups", .min = 1});
      field("k", k, {.help = "experts per token, over the chosen groups", .unit = "experts", .min = 1});
      field("rate", rate, {.help = "how far a bias moves per optimiser step", .unit = "score", .min = 0});
      field("scale", scale, {.help = "sum of a token's weights"});
      field("balance_loss", balance_loss,
            {.help = "weight of the sequence-wise balance loss (the paper: 0.0001)", .min = 0});
    }
  };

  static Composition compose(const Config& c, const StageInputs&) {
    Composition out;
    out.scorer = {.name = "linear", .fields = table({{"activation", "sigmoid"}})};
    out.selector = {.name = "grouped_top_k",
                    .fields = table({{"groups", c.groups},
                                     {"top_groups", c.top_groups},
                                     {"k", c.k},
                                     {"group_score", "top2_sum"},
                                     {"within", "together"}})};
    out.gate = {.name = "normalised", .fields = table({{"scale", c.scale}})};
    out.balancers = {{.name = "loss_free_bias", .fields = table({{"rate", c.rate}})}};
    if (c.balance_loss > 0)
      out.balancers.push_back(
          {.name = "balance_loss", .fields = table({{"coefficient", c.balance_loss}, {"scope", "sequence"}})});
    return out;
  }
};

}  // namespace

extern constinit const Entry<Router> router_group_limited = entry<GroupLimitedRouter>(
    {.name = "group_limited",
     .paper = 55,
     .source = "DeepSeek-V3 (2024), section 2.1.2: node-limited routing",
     .taxonomy = "gating/sparse/grouped",
     .summary = "sigmoid top-k over a token's best groups, balanced by a selection bias",
     .equation = "y = c Σ_{e ∈ T} s_e / Σ_T s · FFN_e(x),  s = sigmoid(W x),  b_e ← b_e + u sign(mean_j n_j - n_e)\n"
                 "T = top-k(s + b) in the groups of largest sum of their two best s + b;  n_e = load of e"});

}  // namespace collegium::route
