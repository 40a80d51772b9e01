// Every chosen expert counts the same: scale / k of what the token asked for, so the weights of a token sum to `scale`.
// Roller 2021 (Hash Layers), section 3; P025 (survey of mixtures of experts).
#include <ATen/ATen.h>

#include "collegium/route/stages.h"

namespace collegium::route {
namespace {

class OneGate final : public Gate, public Makes<OneGate, Gate> {
 public:
  using Interface = Gate;
  struct Config {
    double scale = 1;
    void visit(Fields& field) { field("scale", scale, {.help = "sum of a token's weights", .min = 1e-6}); }
  };
  OneGate(const Config& config, const StageInputs&) : scale_(config.scale) {}
  Tensor weigh(const Scores&, const Decision& decision, const Context&) override {
    auto asked_N = at::zeros({decision.n_tokens()}, decision.score_R().options());
    const auto count = [&](const Tensor& token) {
      if (token.size(0)) asked_N.index_add_(0, token, at::ones(token.sizes(), asked_N.options()));
    };
    count(decision.token_R());
    count(decision.dropped().token_Q);
    const auto share_R = asked_N.index_select(0, decision.token_R()).reciprocal();
    return scale_ == 1 ? share_R : share_R * scale_;
  }
  bool weighs_scores(double) const override { return false; }
  Needs needs() const override { return {}; }

 private:
  double scale_;
};

}  // namespace

extern constinit const Entry<Gate> gate_one =
    entry<OneGate>({.name = "one",
                    .paper = 25,
                    .source = "Roller 2021 (Hash Layers), section 3",
                    .taxonomy = "gating/weights/equal",
                    .summary = "all of a token's experts count the same",
                    .equation = "g_e = scale / |T|,  T = experts that the token asked for"});

}  // namespace collegium::route
