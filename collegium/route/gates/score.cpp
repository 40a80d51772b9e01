// The weight is the score itself (times a constant): Switch (P106, eq. 2), expert choice (P065), ReMoE (P095).
#include <ATen/ATen.h>

#include "collegium/route/gather.h"
#include "collegium/route/stages.h"

namespace collegium::route {
namespace {

class ScoreGate final : public Gate, public Makes<ScoreGate, Gate> {
 public:
  using Interface = Gate;
  struct Config {
    double scale = 1;
    void visit(Fields& field) { field("scale", scale, {.help = "multiplies every weight", .min = 1e-6}); }
  };
  ScoreGate(const Config& config, const StageInputs&) : scale_(config.scale) {}
  Tensor weigh(const Scores& scores, const Decision& decision, const Context&) override {
    const auto gate_R = gather_scores(scores.score_NE, decision.token_R(), decision.expert_R());
    return scale_ == 1 ? gate_R : gate_R * scale_;
  }
  std::optional<kernels::ChoiceWeight> choice_weight() const override {
    return kernels::ChoiceWeight{.is_share = false, .scale = scale_};
  }
  Needs needs() const override { return {.scores = {ScoreKind::softmax, ScoreKind::sigmoid, ScoreKind::relu}}; }

 private:
  double scale_;
};

}  // namespace

extern constinit const Entry<Gate> gate_score = entry<ScoreGate>({.name = "score",
                                                                  .paper = 106,
                                                                  .source = "Fedus 2021 (Switch Transformer), eq. 2",
                                                                  .taxonomy = "gating/weights/score",
                                                                  .summary = "the weight is the score itself",
                                                                  .equation = "g_e = scale · s_e"});

}  // namespace collegium::route
