// The weight is the score's share of the token's chosen scores, so a token's weights sum to `scale`. For softmax
// scores this equals a softmax over the chosen logits. Shares are taken over what the token asked for: an
// assignment dropped for lack of room leaves its share empty, unless `over` says kept. Lepikhin 2020 (GShard, the
// baseline of P106), algorithm 1; Jiang 2024 (Mixtral), section 2.1.
//
// N tokens, R kept assignments.
#include <ATen/ATen.h>

#include <array>

#include "collegium/route/gather.h"
#include "collegium/route/stages.h"

namespace collegium::route {
namespace {

enum class ShareOver { asked, kept };
std::span<const std::string_view> enum_names(ShareOver) {
  static constexpr std::array<std::string_view, 2> names = {"asked", "kept"};
  return names;
}

class NormalisedGate final : public Gate, public Makes<NormalisedGate, Gate> {
 public:
  using Interface = Gate;
  struct Config {
    double scale = 1;
    double epsilon = 1e-20;
    ShareOver over = ShareOver::asked;
    void visit(Fields& field) {
      field("scale", scale, {.help = "sum of a token's weights", .min = 1e-6});
      field("epsilon", epsilon, {.help = "added to the divisor; matters only when all chosen scores vanish", .min = 0});
      field("over", over, {.help = "shares of all that was asked for, or of what was kept"});
    }
  };
  NormalisedGate(const Config& config, const StageInputs&) : config_(config) {}

  Tensor weigh(const Scores& scores, const Decision& decision, const Context&) override {
    const auto score_R = gather_scores(scores.score_NE, decision.token_R(), decision.expert_R());
    auto sum_N = token_sums(score_R, decision.token_R(), decision.n_tokens());
    if (config_.over == ShareOver::asked && decision.n_dropped() > 0) {
      const auto& gone = decision.dropped();
      sum_N = sum_N.index_add(0, gone.token_Q, gather_scores(scores.score_NE, gone.token_Q, gone.expert_Q));
    }
    const auto share_R = shares_of(score_R, sum_N, decision.token_R(), config_.epsilon);
    return config_.scale == 1 ? share_R : share_R * config_.scale;
  }
  bool weighs_scores(double choices_per_token) const override { return choices_per_token != 1 || config_.epsilon > 1e-3; }
  std::optional<kernels::ChoiceWeight> choice_weight() const override {
    return kernels::ChoiceWeight{.is_share = true, .scale = config_.scale, .epsilon = config_.epsilon};
  }
  Needs needs() const override { return {.scores = {ScoreKind::softmax, ScoreKind::sigmoid, ScoreKind::relu}}; }

 private:
  Config config_;
};

}  // namespace

extern constinit const Entry<Gate> gate_normalised = entry<NormalisedGate>(
    {.name = "normalised",
     .paper = 106,
     .source = "Lepikhin 2020 (GShard), algorithm 1; Jiang 2024 (Mixtral), section 2.1",
     .taxonomy = "gating/weights/normalised",
     .summary = "the score's share of the token's chosen scores",
     .equation = "g_e = scale · s_e / (Σ_{j ∈ T} s_j + ε),  T = experts that the token asked for"});

}  // namespace collegium::route
