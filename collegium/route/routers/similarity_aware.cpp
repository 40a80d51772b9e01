// Similarity-aware routing: top-k over linear scores that are mixed between the tokens of a sequence. P009, section 2.
#include "collegium/route/router.h"

namespace collegium::route {
namespace {

class SimilarityAwareRouter final : public Preset<SimilarityAwareRouter> {
 public:
  struct Config {
    int64_t k = 2;
    double temperature = 0;
    double balance_loss = 0.01;
    void visit(Fields& field) {
      field("k", k, {.help = "experts per token", .unit = "experts", .min = 1});
      field("temperature", temperature,
            {.help = "what dot products of tokens are divided by; 0 = sqrt(d_model)", .min = 0});
      field("balance_loss", balance_loss, {.help = "weight of the load-balancing loss", .min = 0});
    }
  };

  static Composition compose(const Config& c, const StageInputs&) {
    Composition out;
    out.scorer = {.name = "similarity_mixed", .fields = table({{"temperature", c.temperature}})};
    out.selector = {.name = "top_k", .fields = table({{"k", c.k}})};
    out.gate = {.name = "normalised"};
    out.add_loss("balance_loss", c.balance_loss);
    return out;
  }
};

}  // namespace

extern constinit const Entry<Router> router_similarity_aware = entry<SimilarityAwareRouter>(
    {.name = "similarity_aware",
     .paper = 9,
     .source = "Nguyen 2025 (SMoE with a graph of tokens), section 2",
     .taxonomy = "gating/sparse/token choice",
     .summary = "top-k over scores mixed with those of similar tokens",
     .equation = "s_t = Σ_{u ≤ t} w_tu softmax(W x_u),  w_t = softmax_{u ≤ t}(⟨x_t, x_u⟩ / τ),  τ = √D unless given\n"
                 "y = Σ_{e ∈ T} s_e / Σ_T s · FFN_e(x),  T = top-k(s);  L = α balance_loss"});

}  // namespace collegium::route
