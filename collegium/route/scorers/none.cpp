// No scores at all: for selectors that need no router forward pass. Roller 2021 (Hash Layers), section 3; P025 (survey
// of mixtures of experts).
#include "collegium/route/stages.h"

namespace collegium::route {
namespace {

class NoScorer final : public Scorer, public Makes<NoScorer, Scorer> {
 public:
  using Interface = Scorer;
  struct Config {
    void visit(Fields&) {}
  };
  NoScorer(const Config&, const StageInputs&) {}
  Scores score(const Tensor&, const Context&) override { return {}; }
  ScoreKind kind() const override { return ScoreKind::none; }
};

}  // namespace

extern constinit const Entry<Scorer> scorer_none =
    entry<NoScorer>({.name = "none",
                     .paper = 25,
                     .source = "Roller 2021 (Hash Layers), section 3: routing without a learned router",
                     .taxonomy = "gating/sparse/fixed",
                     .summary = "no scores, no parameters, no forward pass",
                     .equation = "s = ∅: no scores are made of x"});

}  // namespace collegium::route
