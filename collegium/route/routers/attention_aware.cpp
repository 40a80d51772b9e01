// Attention-aware routing: top-k over linear scores that are mixed between the tokens of a sequence. P009, section 3.
#include "collegium/route/router.h"

namespace collegium::route {
namespace {

class AttentionAwareRouter final : public Preset<AttentionAwareRouter> {
 public:
  struct Config {
    int64_t k = 2;
    double balance_loss = 0.01;
    void visit(Fields& field) {
      field("k", k, {.help = "experts per token", .unit = "experts", .min = 1});
      field("balance_loss", balance_loss, {.help = "weight of the load-balancing loss", .min = 0});
    }
  };

  static Composition compose(const Config& c, const StageInputs&) {
    Composition out;
    out.scorer = {.name = "attention_mixed"};
    out.selector = {.name = "top_k", .fields = table({{"k", c.k}})};
    out.gate = {.name = "normalised"};
    out.add_loss("balance_loss", c.balance_loss);
    return out;
  }
};

}  // namespace

extern constinit const Entry<Router> router_attention_aware = entry<AttentionAwareRouter>(
    {.name = "attention_aware",
     .paper = 9,
     .source = "Nguyen 2025 (SMoE with a graph of tokens), section 3",
     .taxonomy = "gating/sparse/token choice",
     .summary = "top-k over scores mixed along the attention",
     .equation = "s_t = Σ_{u ≤ t} a_tu p_u / Σ_{u ≤ t} a_tu,  p = softmax(W x),  a = attention, mean over heads\n"
                 "y = Σ_{e ∈ T} s_e / Σ_T s · FFN_e(x),  T = top-k(s);  L = α balance_loss",
     .claims = {.needs = {.attention = true}}});

}  // namespace collegium::route
