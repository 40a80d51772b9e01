// Top-k under group limits: each token first takes `top_groups` of the equal, contiguous groups of experts (the
// devices of a cluster, the prototypes of M6-T), then k experts in each of them, or k together over them.
// P055 (SAM) takes one group and mixes inside it, P114 (M6-T, section 3.3) takes all groups and one expert in each,
// DeepSeek-V3 (section 2.1.2, node-limited routing) ranks groups by the sum of their two best scores.
// Ties go to the lower group, then to the lower expert. What is outside the chosen groups counts as -infinity, not as
// 0, so that a negative score plus bias inside a chosen group still wins.
#include "collegium/kernels/grouped_top_k.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <numeric>

#include "collegium/route/gather.h"
#include "collegium/route/stages.h"
#include "collegium/route/turning.h"

namespace collegium::route {
namespace {

constexpr Selector::Claims kGroupedTopKClaims = {
    .chooser = Chooser::token, .reads_bias = true, .chooses_any_set = false};

// One token's scores by groups, plainly: for Reasons.
class Groups {
 public:
  Groups(const double* score_E, const kernels::GroupRule& rule, int64_t size)
      : score_E_(score_E),
        rule_(rule),
        size_(size),
        counted_(rule.group_score == kernels::GroupScore::max   ? 1
                 : rule.group_score == kernels::GroupScore::sum ? size
                                                                : std::min<int64_t>(2, size)) {
    for (int64_t g = 0; g < rule.groups; ++g) order_G_.push_back(g), worth_G_.push_back(worth(sorted({g})));
    std::stable_sort(order_G_.begin(), order_G_.end(), [&](auto a, auto b) { return worth_of(a) > worth_of(b); });
  }

  bool is_taken(int64_t g) const {
    const auto end = order_G_.begin() + rule_.top_groups;
    return std::find(order_G_.begin(), end, g) != end;
  }
  // Above this the expert's score makes its group one of those taken.
  double group_bar(int64_t e) const {
    const auto others = other_groups(e / size_);
    if (static_cast<int64_t>(others.size()) < rule_.top_groups) return -kNever;
    const auto rival = worth_of(others[static_cast<size_t>(rule_.top_groups - 1)]);
    const auto rest = sorted({e / size_}, e);
    if (static_cast<int64_t>(rest.size()) >= counted_ && worth(rest) >= rival) return -kNever;  // taken without it
    return rival - std::accumulate(rest.begin(), rest.begin() + counted_ - 1, 0.0);
  }
  // Above this the score is one of the best k inside, where its group is taken.
  double inner_bar(int64_t e) const {
    std::vector<int64_t> open = {e / size_};
    if (rule_.within == kernels::WithinGroups::together) {
      const auto others = other_groups(e / size_);
      open.insert(open.end(), others.begin(), others.begin() + rule_.top_groups - 1);
    }
    const auto rest = sorted(open, e);
    return static_cast<int64_t>(rest.size()) < rule_.k ? -kNever : rest[static_cast<size_t>(rule_.k - 1)];
  }

 private:
  static constexpr double kNever = std::numeric_limits<double>::infinity();

  // Scores of some groups but that of `without`, best first.
  std::vector<double> sorted(const std::vector<int64_t>& groups, int64_t without = -1) const {
    std::vector<double> out;
    for (const auto g : groups)
      for (auto e = g * size_; e < (g + 1) * size_; ++e)
        if (e != without) out.push_back(score_E_[e]);
    std::sort(out.begin(), out.end(), std::greater<>());
    return out;
  }
  double worth(const std::vector<double>& best) const {
    return std::accumulate(best.begin(), best.begin() + counted_, 0.0);
  }
  double worth_of(int64_t g) const { return worth_G_[static_cast<size_t>(g)]; }
  std::vector<int64_t> other_groups(int64_t g) const {
    auto out = order_G_;
    std::erase(out, g);
    return out;
  }

  const double* score_E_;
  const kernels::GroupRule& rule_;
  int64_t size_, counted_;
  std::vector<int64_t> order_G_;  // best first
  std::vector<double> worth_G_;
};

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
  // An expert is chosen when its group is, and when it is good enough inside: the higher of two bars.
  Reasons reasons(const Scores& scores, const Tensor& bias_E, const Context&) override {
    Reasons out{.compared_NE = scores.score_NE.detach()};
    if (bias_E.defined()) out.compared_NE = out.compared_NE + bias_E.detach().to(out.compared_NE);
    const auto exact_NE = out.compared_NE.to(at::kCPU, at::kDouble).contiguous();
    const auto N = exact_NE.size(0), E = exact_NE.size(1), S = E / rule_.groups;
    auto turns_NE = at::empty_like(exact_NE), taken_NE = at::empty_like(exact_NE, at::kBool);
    auto* turns = turns_NE.mutable_data_ptr<double>();
    auto* taken = taken_NE.mutable_data_ptr<bool>();
    for (int64_t n = 0; n < N; ++n) {
      const Groups groups(exact_NE.const_data_ptr<double>() + n * E, rule_, S);
      for (int64_t e = 0; e < E; ++e) {
        turns[n * E + e] = std::max(groups.group_bar(e), groups.inner_bar(e));
        taken[n * E + e] = groups.is_taken(e / S);
      }
    }
    out.turns_at_NE = turns_NE.to(out.compared_NE);
    out.group_taken_NE = taken_NE.to(out.compared_NE.device());
    for (int64_t e = 0; e < E; ++e) out.group_E.push_back(e / S);
    out.rule = text("each token takes its ", best_of(rule_.top_groups, "group"), " of ", rule_.groups, ", then its ",
                    best_of(rule_.k, "expert"), is_each() ? " in each" : " in there");
    return out;
  }
  Needs needs() const override { return {.scores = {ScoreKind::softmax, ScoreKind::sigmoid, ScoreKind::relu}}; }
  Claims claims() const override {
    auto out = kGroupedTopKClaims;
    // One expert from everywhere, or all groups together: then it is top-k.
    out.chooses_any_set = !is_each() && rule_.top_groups == rule_.groups;
    return out;
  }
  double choices_per_token() const override { return static_cast<double>(rule_.per_token()); }
  std::optional<kernels::GroupRule> choice_rule() const override { return rule_; }

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
