// Hash routing: the token's id decides; nothing is learned and no router runs. Roller 2021 (Hash Layers), section 3.1;
// the fixed gate of P025 (survey of mixtures of experts).
#include "collegium/route/router.h"

namespace collegium::route {
namespace {

class HashRouter final : public Preset<HashRouter> {
 public:
  struct Config {
    int64_t k = 1;
    int64_t seed = 0;
    void visit(Fields& field) {
      field("k", k, {.help = "experts per token, all different", .unit = "experts", .min = 1});
      field("seed", seed, {.help = "which hash function"});
    }
  };

  static Composition compose(const Config& c, const StageInputs&) {
    Composition out;
    out.scorer = {.name = "none"};
    out.selector = {.name = "hash", .fields = table({{"k", c.k}, {"seed", c.seed}})};
    out.gate = {.name = "one"};
    return out;
  }
};

}  // namespace

extern constinit const Entry<Router> router_hash = entry<HashRouter>(
    {.name = "hash",
     .paper = 25,
     .source = "Roller 2021 (Hash Layers), section 3.1",
     .taxonomy = "gating/sparse/fixed",
     .summary = "the token id decides: no parameters, no router forward pass",
     .equation = "y = 1/k Σ_{e ∈ T} FFN_e(x),  T = {h_1(id), …, h_k(id)},  h_j = seeded hashes of the token id",
     .claims = {.chooser = Chooser::nobody, .needs = {.token_ids = true}}});

}  // namespace collegium::route
