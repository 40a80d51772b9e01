// The weight of two levels that each mix what they chose: the group's share of the chosen groups' scores, times the
// expert's share of the chosen scores in its group. Shazeer 2017, eq. 12: y = sum_i G(x)_i sum_j G_i(x)_j E_ij(x),
// where each G is a softmax over what was kept, so that weights sum to one on both levels and together. A group is
// chosen when one of its experts is kept; its score is the sum over all of its experts.
//
// N tokens, E experts, G groups of S neighbouring experts, R kept assignments.
#include <ATen/ATen.h>

#include "collegium/route/gather.h"
#include "collegium/route/stages.h"

namespace collegium::route {
namespace {

class GroupProductGate final : public Gate, public Makes<GroupProductGate, Gate> {
 public:
  using Interface = Gate;
  struct Config {
    int64_t groups = 2;
    double epsilon = 1e-20;
    void visit(Fields& field) {
      field("groups", groups, {.help = "equal groups of neighbouring experts", .unit = "groups", .min = 1});
      field("epsilon", epsilon, {.help = "added to the divisors; matters only when all scores vanish", .min = 0});
    }
  };
  GroupProductGate(const Config& config, const StageInputs& in) : config_(config), size_(in.n_experts / config.groups) {
    require(in.n_experts % config.groups == 0, "group_product: ", in.n_experts, " experts do not divide into ",
            config.groups, " equal groups");
  }

  Tensor weigh(const Scores& scores, const Decision& decision, const Context&) override {
    const auto N = scores.score_NE.size(0), G = config_.groups;
    const auto& token_R = decision.token_R();
    const auto score_R = gather_scores(scores.score_NE, token_R, decision.expert_R());
    const auto place_R = token_R * G + decision.expert_R().floor_divide(size_);  // the token's group
    const auto plain = scores.score_NE.options().requires_grad(false);
    const auto kept_P = at::zeros({N * G}, plain).index_add(0, place_R, score_R);
    const auto is_chosen_P = at::zeros({N * G}, plain.dtype(at::kBool)).index_fill(0, place_R, true);
    const auto group_P = scores.score_NE.view({N, G, size_}).sum(2).reshape({N * G});
    const auto chosen_N = (group_P * is_chosen_P).view({N, G}).sum(1);
    const auto inside_R = score_R / (kept_P.index_select(0, place_R) + config_.epsilon);
    return inside_R * group_P.index_select(0, place_R) / (chosen_N.index_select(0, token_R) + config_.epsilon);
  }
  Needs needs() const override { return {.scores = {ScoreKind::softmax, ScoreKind::sigmoid, ScoreKind::relu}}; }

 private:
  Config config_;
  int64_t size_;
};

}  // namespace

extern constinit const Entry<Gate> gate_group_product =
    entry<GroupProductGate>({.name = "group_product",
                             .source = "Shazeer 2017, eq. 12",
                             .taxonomy = "gating/weights/normalised",
                             .summary = "the group's share among the chosen groups times the expert's inside it",
                             .equation = "g_e = S_γ / Σ_{chosen γ'} S_γ' · s_e / Σ_{j ∈ T ∩ γ} s_j\n"
                                         "γ = group of e,  S_γ = Σ_{j ∈ γ} s_j,  T = kept experts of the token"});

}  // namespace collegium::route
