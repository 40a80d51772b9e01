// Hierarchical mixture of experts: a first router chooses groups of experts, a second one, of each group, chooses
// experts inside it; the probabilities of both multiply. Shazeer 2017, appendix B: groups first (there 16 to 256 of
// them, two chosen on each level), weights that sum to one on each level ("normalise"). Without it weights are the
// products themselves, which keeps a gradient on both levels when one group or one expert is chosen. Assumed: Switch's
// balance loss over all experts instead of the paper's importance and load losses of products (eq. 13 and 14).
#include "collegium/route/router.h"

namespace collegium::route {
namespace {

class HierarchicalRouter final : public Preset<HierarchicalRouter> {
 public:
  struct Config {
    int64_t groups = 2;
    int64_t top_groups = 1;
    int64_t k = 1;
    bool normalise = false;
    double balance_loss = 0.01;
    void visit(Fields& field) {
      field("groups", groups, {.help = "groups of neighbouring experts", .unit = "groups", .min = 1});
      field("top_groups", top_groups, {.help = "groups that the first level chooses", .unit = "groups", .min = 1});
      field("k", k, {.help = "experts that the second level chooses in each", .unit = "experts", .min = 1});
      field("normalise", normalise, {.help = "weights sum to one on each level, over what was chosen there"});
      field("balance_loss", balance_loss, {.help = "weight of the load-balancing loss", .min = 0});
    }
  };

  static Composition compose(const Config& c, const StageInputs&) {
    Composition out;
    out.scorer = {.name = "hierarchical", .fields = table({{"groups", c.groups}})};
    out.selector = {.name = "grouped_top_k",
                    .fields = table({{"groups", c.groups},
                                     {"top_groups", c.top_groups},
                                     {"k", c.k},
                                     {"group_score", "sum"},
                                     {"within", "each"}})};
    out.gate = {.name = "score"};
    if (c.normalise) out.gate = {.name = "group_product", .fields = table({{"groups", c.groups}})};
    out.add_loss("balance_loss", c.balance_loss);
    return out;
  }
};

}  // namespace

extern constinit const Entry<Router> router_hierarchical = entry<HierarchicalRouter>(
    {.name = "hierarchical",
     .source = "Shazeer 2017, appendix B",
     .taxonomy = "gating/sparse/hierarchical",
     .summary = "groups first, then experts inside them: the probabilities multiply",
     .equation = "p_e = P_{g(e)} Q_e,  P = softmax(W₁ x) over groups,  Q = softmax(W₂ x) inside each group\n"
                 "y = Σ_{g ∈ top(P)} Σ_{e ∈ top-k(Q in g)} p_e FFN_e(x);  L = α balance_loss"});

}  // namespace collegium::route
