// Dynamic MoE: experts by descending softmax score until their sum reaches p = 0.4, weighted by their scores, with a
// load-balancing loss (1e-2) and an entropy loss (1e-4). P059 (Huang 2024), section 3 and appendix.
// Assumed: weights are the scores themselves (eq. 5), not their shares; the entropy is of the whole distribution.
#include "collegium/route/router.h"

namespace collegium::route {
namespace {

class TopPRouter final : public Preset<TopPRouter> {
 public:
  struct Config {
    double p = 0.4;
    int64_t max_k = 0;
    double expected_k = 2;
    double balance_loss = 0.01;
    double entropy_loss = 1e-4;
    bool normalise = false;
    void visit(Fields& field) {
      field("p", p, {.help = "experts are added until their scores sum to this", .min = 0, .max = 1});
      field("max_k", max_k, {.help = "never more experts than this; 0 = no limit", .unit = "experts", .min = 0});
      field("expected_k", expected_k,
            {.help = "experts per token that the plan counts with", .unit = "experts", .min = 0});
      field("balance_loss", balance_loss, {.help = "weight of the load-balancing loss", .min = 0});
      field("entropy_loss", entropy_loss, {.help = "weight of the entropy loss", .min = 0});
      field("normalise", normalise, {.help = "a token's weights sum to one"});
    }
  };

  static Composition compose(const Config& c, const StageInputs&) {
    Composition out;
    out.scorer = {.name = "linear", .fields = table({{"activation", "softmax"}})};
    out.selector = {.name = "top_p", .fields = table({{"p", c.p}, {"max_k", c.max_k}, {"expected_k", c.expected_k}})};
    out.gate = {.name = c.normalise ? "normalised" : "score"};
    out.add_loss("balance_loss", c.balance_loss);
    out.add_loss("entropy_loss", c.entropy_loss);
    return out;
  }
};

}  // namespace

extern constinit const Entry<Router> router_top_p = entry<TopPRouter>(
    {.name = "top_p",
     .paper = 59,
     .source = "Huang 2024 (Harder Tasks Need More Experts), section 3",
     .taxonomy = "gating/sparse/dynamic",
     .summary = "as many experts as it takes to reach a confidence, with an entropy loss",
     .equation = "y = Σ_{e ∈ T} s_e FFN_e(x),  s = softmax(W x),  T = the fewest best experts with Σ_T s ≥ p\n"
                 "L = α balance_loss - β mean Σ_e s_e log s_e"});

}  // namespace collegium::route
