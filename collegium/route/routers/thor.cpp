// THOR: experts are drawn at random, in training and in inference, and count the same. What keeps them consistent is
// the trainer's field `consistency`: two passes with different draws should predict the same. P062, section 3, eq. 3
// to 5. Each token draws for itself ("dispatch at token level"). With `shared_draw` a training pass draws once for all
// its tokens, as the authors' code does; recipes/route/thor.toml has both figures.
#include "collegium/route/router.h"

namespace collegium::route {
namespace {

class ThorRouter final : public Preset<ThorRouter> {
 public:
  struct Config {
    int64_t k = 1;
    bool shared_draw = false;
    void visit(Fields& field) {
      field("k", k, {.help = "experts per token, all different", .unit = "experts", .min = 1});
      field("shared_draw", shared_draw, {.help = "training draws once for all tokens of a pass, not for each token"});
    }
  };

  static Composition compose(const Config& c, const StageInputs&) {
    Composition out;
    out.scorer = {.name = "none"};
    out.selector = {.name = "random", .fields = table({{"k", c.k}, {"shared_draw", c.shared_draw}})};
    out.gate = {.name = "one"};
    return out;
  }
};

}  // namespace

extern constinit const Entry<Router> router_thor = entry<ThorRouter>(
    {.name = "thor",
     .paper = 62,
     .source = "Zuo 2021 (THOR), section 3",
     .taxonomy = "gating/sparse/random",
     .summary = "randomly drawn experts, to be trained with the consistency loss",
     .equation = "y = 1/k Σ_{e ∈ T} FFN_e(x),  T ~ uniform over the sets of k experts\n"
                 "T is drawn for each token; with a shared draw, in training once for a pass and layer",
     .claims = {.chooser = Chooser::nobody}});

}  // namespace collegium::route
