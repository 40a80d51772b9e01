// The weight is the score's share of its own group's scores. Of softmax scores this is the softmax inside the group,
// as if each group had a router of its own: M6-T's prototypes (P114, section 3.3, k top-1 routers), SAM's mixture
// inside a device (P055).
//
// N tokens, E experts, G groups of S neighbouring experts, R kept assignments.
#include <ATen/ATen.h>

#include "collegium/route/gather.h"
#include "collegium/route/stages.h"

namespace collegium::route {
namespace {

class GroupShareGate final : public Gate, public Makes<GroupShareGate, Gate> {
 public:
  using Interface = Gate;
  struct Config {
    int64_t groups = 2;
    double epsilon = 1e-20;
    void visit(Fields& field) {
      field("groups", groups, {.help = "equal groups of neighbouring experts", .unit = "groups", .min = 1});
      field("epsilon", epsilon,
            {.help = "added to the divisor; matters only when all of a group's scores vanish", .min = 0});
    }
  };
  GroupShareGate(const Config& config, const StageInputs& in) : config_(config), size_(in.n_experts / config.groups) {
    require(in.n_experts % config.groups == 0, "group_share: ", in.n_experts, " experts do not divide into ",
            config.groups, " equal groups");
  }

  Tensor weigh(const Scores& scores, const Decision& decision, const Context&) override {
    const auto& token_R = decision.token_R();
    const auto sum_NG = scores.score_NE.view({scores.score_NE.size(0), config_.groups, size_}).sum(2);
    const auto score_R = gather_scores(scores.score_NE, token_R, decision.expert_R());
    const auto sum_R = gather_scores(sum_NG, token_R, decision.expert_R().floor_divide(size_));
    // A vanishing group divides by one, so that neither its weight nor its gradient is 0 / 0.
    const auto divisor_R = at::where(sum_R.gt(0), sum_R + config_.epsilon, at::ones_like(sum_R));
    return score_R / divisor_R;
  }
  Needs needs() const override { return {.scores = {ScoreKind::softmax, ScoreKind::sigmoid, ScoreKind::relu}}; }

 private:
  Config config_;
  int64_t size_;
};

}  // namespace

extern constinit const Entry<Gate> gate_group_share =
    entry<GroupShareGate>({.name = "group_share",
                           .paper = 114,
                           .source = "Yang 2021 (M6-T), section 3.3: a softmax of its own in each prototype",
                           .taxonomy = "gating/weights/normalised",
                           .summary = "the score's share of its own group's scores",
                           .equation = "g_e = s_e / Σ_{j ∈ γ} s_j,  γ = group of e"});

}  // namespace collegium::route
