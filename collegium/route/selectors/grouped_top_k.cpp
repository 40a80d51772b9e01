// Top-k under group limits: each token first takes `top_groups` of the equal, contiguous groups of experts (the
// devices of a cluster, the prototypes of M6-T), then k experts in each of them, or k together over them.
// P055 (SAM) takes one group and mixes inside it, P114 (M6-T, section 3.3) takes all groups and one expert in each,
// DeepSeek-V3 (section 2.1.2, node-limited routing) ranks groups by the sum of their two best scores.
// Ties go to the lower group, then to the lower expert. What is outside the chosen groups counts as -infinity, not as
// 0, so that a negative score plus bias inside a chosen group still wins.
//
// N tokens, E experts, G groups of S = E / G experts, K experts per token.
#include <ATen/ATen.h>

#include <array>
#include <limits>

#include "collegium/kernels/top_k.h"
#include "collegium/route/gather.h"
#include "collegium/route/stages.h"

namespace collegium::route {
namespace {

enum class GroupScore { max, sum, top2_sum };
std::span<const std::string_view> enum_names(GroupScore) {
  static constexpr std::array<std::string_view, 3> names = {"max", "sum", "top2_sum"};
  return names;
}

enum class WithinGroups { each, together };
std::span<const std::string_view> enum_names(WithinGroups) {
  static constexpr std::array<std::string_view, 2> names = {"each", "together"};
  return names;
}

constexpr Selector::Claims kGroupedTopKClaims = {
    .chooser = Chooser::token, .reads_bias = true, .chooses_any_set = false};
constexpr double kNever = std::numeric_limits<double>::infinity();

class GroupedTopKSelector final : public Selector, public Makes<GroupedTopKSelector, Selector> {
 public:
  using Interface = Selector;
  struct Config {
    int64_t groups = 2;
    int64_t top_groups = 1;
    int64_t k = 2;
    GroupScore group_score = GroupScore::sum;
    WithinGroups within = WithinGroups::together;
    void visit(Fields& field) {
      field("groups", groups, {.help = "equal groups of neighbouring experts", .unit = "groups", .min = 1});
      field("top_groups", top_groups, {.help = "groups that a token may use", .unit = "groups", .min = 1});
      field("k", k, {.help = "experts per token (together), or per chosen group (each)", .unit = "experts", .min = 1});
      field("group_score", group_score, {.help = "a group is ranked by its best score, the sum, or its two best"});
      field("within", within, {.help = "k experts in each chosen group, or k over all of them"});
    }
  };

  GroupedTopKSelector(const Config& config, const StageInputs& in)
      : config_(config), n_experts_(in.n_experts), size_(in.n_experts / config.groups) {
    require(in.n_experts % config.groups == 0, "grouped_top_k: ", in.n_experts, " experts do not divide into ",
            config.groups, " equal groups");
    require(config.top_groups <= config.groups, "grouped_top_k: top_groups = ", config.top_groups, " is more than the ",
            config.groups, " groups there are");
    const auto room = config.within == WithinGroups::each ? size_ : size_ * config.top_groups;
    require(config.k <= room, "grouped_top_k: k = ", config.k, " is more than the ", room,
            config.within == WithinGroups::each ? " experts of a group" : " experts of the chosen groups");
  }

  Assignments select(const Scores& scores, const Tensor& bias_E, const Context& context) override {
    auto compared_NE = scores.score_NE.detach();
    if (bias_E.defined()) compared_NE = compared_NE + bias_E.detach().to(compared_NE);
    const auto N = compared_NE.size(0), G = config_.groups, top = config_.top_groups, K = per_token();
    const auto minus_infinity = -std::numeric_limits<double>::infinity();

    // Inside each group, best first: who leads there, and what the group counts.
    const auto group_NGS = compared_NE.reshape({N * G, size_});
    const auto best = kernels::top_k(group_NGS, size_);
    const auto sorted_NGS = best.score_NK.view({N, G, size_});
    const auto counted = config_.group_score == GroupScore::max   ? int64_t{1}
                         : config_.group_score == GroupScore::sum ? size_
                                                                  : std::min<int64_t>(2, size_);
    const auto group_score_NG = sorted_NGS.slice(2, 0, counted).sum(2);
    const auto chosen_groups = kernels::top_k(group_score_NG, top);
    const auto allowed_NG =
        at::zeros({N, G}, compared_NE.options().dtype(at::kBool)).scatter_(1, chosen_groups.expert_NK, true);

    auto allowed_NE = allowed_NG.unsqueeze(2).expand({N, G, size_}).reshape({N, n_experts_});
    if (config_.within == WithinGroups::each && config_.k < size_) {
      const auto leads_NGS =
          at::zeros({N * G, size_}, allowed_NE.options()).scatter_(1, best.expert_NK.slice(1, 0, config_.k), true);
      allowed_NE = allowed_NE.logical_and(leads_NGS.view({N, n_experts_}));
    }
    const auto chosen = kernels::top_k(compared_NE.masked_fill(allowed_NE.logical_not(), minus_infinity), K);

    const auto group_NK = chosen.expert_NK.floor_divide(size_);
    // Lost inside: to the best expert that the same rule left out.
    auto rival_NK = chosen.runner_up_N.unsqueeze(1).expand({N, K});
    if (config_.within == WithinGroups::each) {
      rival_NK = config_.k < size_ ? sorted_NGS.select(2, config_.k).gather(1, group_NK)
                                   : at::full_like(chosen.score_NK, minus_infinity);
    }
    const auto inside_NK = chosen.score_NK - rival_NK;
    const auto margin_NK = at::minimum(inside_NK, group_margin(sorted_NGS, group_score_NG, chosen_groups.runner_up_N,
                                                               group_NK, chosen.score_NK, counted));

    return token_choices(chosen.expert_NK, chosen.score_NK, margin_NK, context.mask_N);
  }
  Needs needs() const override { return {.scores = {ScoreKind::softmax, ScoreKind::sigmoid, ScoreKind::relu}}; }
  Claims claims() const override {
    auto out = kGroupedTopKClaims;
    // One expert from everywhere, or all groups together: then it is top-k.
    out.chooses_any_set = config_.within == WithinGroups::together && config_.top_groups == config_.groups;
    return out;
  }
  double choices_per_token() const override { return static_cast<double>(per_token()); }

 private:
  int64_t per_token() const { return config_.k * (config_.within == WithinGroups::each ? config_.top_groups : 1); }

  // How far a chosen expert may fall before its whole group loses its place to the best group left out. Below the
  // floor (the group's score without this expert) a fall changes nothing more.
  Tensor group_margin(const Tensor& sorted_NGS, const Tensor& group_score_NG, const Tensor& runner_up_N,
                      const Tensor& group_NK, const Tensor& score_NK, int64_t counted) const {
    const auto score_of_group_NK = group_score_NG.gather(1, group_NK);
    const auto margin_NK = score_of_group_NK - runner_up_N.unsqueeze(1);
    if (config_.group_score == GroupScore::sum || counted == size_) return margin_NK;
    const auto next_NK = sorted_NGS.select(2, counted).gather(1, group_NK);
    const auto last_NK = sorted_NGS.select(2, counted - 1).gather(1, group_NK);
    const auto floor_NK = at::where(score_NK.ge(last_NK), score_of_group_NK - score_NK + next_NK, score_of_group_NK);
    return margin_NK.masked_fill(floor_NK.ge(runner_up_N.unsqueeze(1)), kNever);
  }

  Config config_;
  int64_t n_experts_, size_;
};

}  // namespace

extern constinit const Entry<Selector> selector_grouped_top_k = entry<GroupedTopKSelector>(
    {.name = "grouped_top_k",
     .paper = 55,
     .source = "Jiang 2021 (SAM), section 3; Yang 2021 (M6-T), section 3.3; DeepSeek-V3, section 2.1.2",
     .taxonomy = "gating/sparse/grouped",
     .summary = "each token takes its best groups of experts, then its best experts inside them",
     .claims = kGroupedTopKClaims});

}  // namespace collegium::route
