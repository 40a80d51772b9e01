// StableMoE's router: top-1 with sigmoid weights; learned and balanced first, then frozen as a function of the token
// id. P078.
#include "collegium/route/router.h"

namespace collegium::route {
namespace {

class StableRouter final : public Preset<StableRouter> {
 public:
  struct Config {
    int64_t freeze_at = 1000;
    int64_t light_width = 50;
    double balance = 0.3;
    void visit(Fields& field) {
      field("freeze_at", freeze_at,
            {.help = "steps of the first stage; the paper has a tenth of the training",
             .unit = "optimiser steps",
             .min = 0});
      field("light_width", light_width, {.help = "width of the light router's embeddings", .min = 1});
      field("balance", balance, {.help = "weight of the balance loss in the first stage", .min = 0});
    }
  };

  static Composition compose(const Config& c, const StageInputs&) {
    Composition out;
    out.scorer = {
        .name = "two_stage",
        .fields = table({{"freeze_at", c.freeze_at}, {"light_width", c.light_width}, {"balance", c.balance}})};
    out.selector = {.name = "top_k", .fields = table({{"k", 1}})};
    out.gate = {.name = "score"};
    return out;
  }
};

}  // namespace

extern constinit const Entry<Router> router_stable = entry<StableRouter>(
    {.name = "stable",
     .paper = 78,
     .source = "Dai 2022 (StableMoE), section 3",
     .taxonomy = "gating/sparse/distilled",
     .summary = "top-1 routing that is learned first and frozen by token id then",
     .equation = "y = s_a FFN_a(x),  s = sigmoid(W x);  first a = argmax s, then a = argmax C v,  v by token id\n"
                 "first: L = β Σ_e (E n_e / N - 1) Σ_{t → e} s_te / N - mean log softmax(C v)_a,  n_e = tokens of e",
     .claims = {.needs = {.token_ids = true}}});

}  // namespace collegium::route
