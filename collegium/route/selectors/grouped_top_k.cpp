// Top-k under group limits: each token first takes `top_groups` of the equal, contiguous groups of experts (the
// devices of a cluster, the prototypes of M6-T), then k experts in each of them, or k together over them.
// P055 (SAM) takes one group and mixes inside it, P114 (M6-T, section 3.3) takes all groups and one expert in each,
// DeepSeek-V3 (section 2.1.2, node-limited routing) ranks groups by the sum of their two best scores.
// Ties go to the lower group, then to the lower expert. What is outside the chosen groups counts as -infinity, not as
// 0, so that a negative score plus bias inside a chosen group still wins.
#include "collegium/kernels/grouped_top_k.h"

#include "collegium/route/gather.h"
#include "collegium/route/stages.h"

namespace collegium::route {
namespace {

constexpr Selector::Claims kGroupedTopKClaims = {
    .chooser = Chooser::token, .reads_bias = true, .chooses_any_set = false};

class GroupedTopKSelector final : public Selector, public Makes<GroupedTopKSelector, Selector> {
 public:
  using Interface = Selector;
  struct Config {
    int64_t groups = 2;
    int64_t top_groups = 1;
    int64_t k = 2;
    kernels::GroupScore group_score = kernels::GroupScore::sum;
    kernels::WithinGroups within = kernels::WithinGroups::together;
    void visit(Fields& field) {
      field("groups", groups, {.help = "equal groups of neighbouring experts", .unit = "groups", .min = 1});
      field("top_groups", top_groups, {.help = "groups that a token may use", .unit = "groups", .min = 1});
      field("k", k, {.help = "experts per token (together), or per chosen group (each)", .unit = "experts", .min = 1});
      field("group_score", group_score, {.help = "a group is ranked by its best score, the sum, or its two best"});
      field("within", within, {.help = "k experts in each chosen group, or k over all of them"});
    }
  };

  GroupedTopKSelector(const Config& config, const StageInputs& in)
      : rule_{config.groups, config.top_groups, config.k, config.group_score, config.within} {
    const auto size = in.n_experts / config.groups;
    require(in.n_experts % config.groups == 0, "grouped_top_k: ", in.n_experts, " experts do not divide into ",
            config.groups, " equal groups");
    require(config.top_groups <= config.groups, "grouped_top_k: top_groups = ", config.top_groups, " is more than the ",
            config.groups, " groups there are");
    const auto room = is_each() ? size : size * config.top_groups;
    require(config.k <= room, "grouped_top_k: k = ", config.k, " is more than the ", room,
            is_each() ? " experts of a group" : " experts of the chosen groups");
  }

  Assignments select(const Scores& scores, const Tensor& bias_E, const Context& context) override {
    const auto chosen = kernels::grouped_top_k(scores.score_NE, rule_, bias_E);
    return token_choices(chosen.expert_NK, chosen.score_NK, chosen.margin_NK, context.mask_N);
  }
  Needs needs() const override { return {.scores = {ScoreKind::softmax, ScoreKind::sigmoid, ScoreKind::relu}}; }
  Claims claims() const override {
    auto out = kGroupedTopKClaims;
    // One expert from everywhere, or all groups together: then it is top-k.
    out.chooses_any_set = !is_each() && rule_.top_groups == rule_.groups;
    return out;
  }
  double choices_per_token() const override { return static_cast<double>(rule_.per_token()); }

 private:
  bool is_each() const { return rule_.within == kernels::WithinGroups::each; }

  kernels::GroupRule rule_;
};

}  // namespace

extern constinit const Entry<Selector> selector_grouped_top_k = entry<GroupedTopKSelector>(
    {.name = "grouped_top_k",
     .paper = 55,
     .source = "Jiang 2021 (SAM), section 3; Yang 2021 (M6-T), section 3.3; DeepSeek-V3, section 2.1.2",
     .taxonomy = "gating/sparse/grouped",
     .summary = "each token takes its best groups of experts, then its best experts inside them",
     .equation = "Γ = the top_groups groups of largest max, sum or sum of the two largest s_e + b_e\n"
                 "T = top-k(s + b) over all of Γ, or in each group of Γ;  b = bias of the balancers",
     .claims = kGroupedTopKClaims});

}  // namespace collegium::route
