#include "collegium/kernels/grouped_top_k.h"

#include <ATen/ATen.h>

#include <array>
#include <limits>

#include "collegium/base/error.h"
#include "collegium/kernels/chosen_row.h"
#include "collegium/kernels/top_k.h"
#include "collegium/kernels/work.h"

namespace collegium::kernels {
namespace {

void check_grouped_top_k(const Tensor& score_NE, const GroupRule& rule, const Tensor& bias_E) {
  require(score_NE.dim() == 2 && at::isFloatingType(score_NE.scalar_type()),
          "grouped_top_k: scores must be floating point [N, E], got ", score_NE.scalar_type(), " ", score_NE.sizes());
  const auto E = score_NE.size(1);
  check_group_rule(rule, E);
  require(!bias_E.defined() || (bias_E.dim() == 1 && bias_E.size(0) == E), "grouped_top_k: a bias of [", E,
          "] wanted, got ", bias_E.defined() ? bias_E.sizes() : at::IntArrayRef());
}

template <class C>
void grouped_rows(const Tensor& score_NE, const GroupRule& rule, const Tensor& bias_E, GroupedTopK& out) {
  const int64_t E = score_NE.size(1), K = rule.per_token();
  const C *score = data<C>(score_NE), *bias = bias_E.defined() ? data<C>(bias_E) : nullptr;
  auto* expert = mutable_data<int64_t>(out.expert_NK);
  C *chosen = mutable_data<C>(out.score_NK), *margin = mutable_data<C>(out.margin_NK);
  at::parallel_for(0, score_NE.size(0), 1 + 16384 / E, [&](int64_t begin, int64_t end) {
    GroupedRow<C> row(rule, E);
    for (int64_t n = begin; n < end; ++n)
      row.choose(score + n * E, bias, expert + n * K, chosen + n * K, margin + n * K);
  });
}

}  // namespace

void check_group_rule(const GroupRule& rule, int64_t n_experts) {
  require(rule.groups >= 1 && n_experts % rule.groups == 0 && n_experts > 0, "grouped_top_k: ", n_experts,
          " experts do not divide into ", rule.groups, " equal groups");
  require(rule.top_groups >= 1 && rule.top_groups <= rule.groups, "grouped_top_k: top_groups = ", rule.top_groups,
          " is not in [1, ", rule.groups, "], the number of groups");
  const auto room = n_experts / rule.groups * (rule.within == WithinGroups::each ? 1 : rule.top_groups);
  require(rule.k >= 1 && rule.k <= room, "grouped_top_k: k = ", rule.k, " is not in [1, ", room,
          "], the experts there are to choose from");
}

std::span<const std::string_view> enum_names(GroupScore) {
  static constexpr std::array<std::string_view, 3> names = {"max", "sum", "top2_sum"};
  return names;
}

std::span<const std::string_view> enum_names(WithinGroups) {
  static constexpr std::array<std::string_view, 2> names = {"each", "together"};
  return names;
}

GroupedTopK grouped_top_k(const Tensor& score_NE, const GroupRule& rule, const Tensor& bias_E) {
  check_grouped_top_k(score_NE, rule, bias_E);
  const auto type = score_NE.scalar_type();
  if (!score_NE.is_cpu() || (type != at::kFloat && type != at::kDouble))
    return plain::grouped_top_k(score_NE, rule, bias_E);
  const auto scores = score_NE.detach().contiguous();
  const auto bias = bias_E.defined() ? bias_E.detach().to(scores).contiguous() : Tensor();
  const int64_t N = scores.size(0), K = rule.per_token();
  GroupedTopK out{fresh({N, K}, at::kLong), fresh({N, K}, scores.options()), fresh({N, K}, scores.options())};
  type == at::kFloat ? grouped_rows<float>(scores, rule, bias, out) : grouped_rows<double>(scores, rule, bias, out);
  return out;
}

namespace plain {

GroupedTopK grouped_top_k(const Tensor& score_NE, const GroupRule& rule, const Tensor& bias_E) {
  check_grouped_top_k(score_NE, rule, bias_E);
  auto compared_NE = score_NE.detach();
  if (bias_E.defined()) compared_NE = compared_NE + bias_E.detach().to(compared_NE);
  const auto N = compared_NE.size(0), E = compared_NE.size(1), G = rule.groups, size = E / G, K = rule.per_token();
  constexpr auto infinity = std::numeric_limits<double>::infinity();
  const bool is_each = rule.within == WithinGroups::each, is_sum = rule.group_score == GroupScore::sum;

  // Inside each group, best first: who leads there, and what the group counts.
  const auto group_NGS = compared_NE.reshape({N * G, size});
  const auto best = plain::top_k(group_NGS, size);
  const auto sorted_NGS = best.score_NK.view({N, G, size});
  const auto counted = counted_of(rule.group_score, size);
  const auto group_score_NG = is_sum ? group_NGS.sum(1).view({N, G}) : sorted_NGS.slice(2, 0, counted).sum(2);
  const auto chosen_groups = plain::top_k(group_score_NG, rule.top_groups);
  const auto allowed_NG =
      at::zeros({N, G}, compared_NE.options().dtype(at::kBool)).scatter_(1, chosen_groups.expert_NK, true);

  auto allowed_NE = allowed_NG.unsqueeze(2).expand({N, G, size}).reshape({N, E});
  if (is_each && rule.k < size) {
    const auto leads_NGS =
        at::zeros({N * G, size}, allowed_NE.options()).scatter_(1, best.expert_NK.slice(1, 0, rule.k), true);
    allowed_NE = allowed_NE.logical_and(leads_NGS.view({N, E}));
  }
  const auto chosen = plain::top_k(compared_NE.masked_fill(allowed_NE.logical_not(), -infinity), K);

  const auto group_NK = chosen.expert_NK.floor_divide(size);
  auto rival_NK = chosen.runner_up_N.unsqueeze(1).expand({N, K});
  if (is_each)
    rival_NK =
        rule.k < size ? sorted_NGS.select(2, rule.k).gather(1, group_NK) : at::full_like(chosen.score_NK, -infinity);
  const auto inside_NK = chosen.score_NK - rival_NK;
  const auto group_rival_N1 = chosen_groups.runner_up_N.unsqueeze(1);
  const auto whole_NK = group_score_NG.gather(1, group_NK);
  auto outside_NK = whole_NK - group_rival_N1;
  if (!is_sum && counted < size) {
    const auto next_NK = sorted_NGS.select(2, counted).gather(1, group_NK);
    const auto last_NK = sorted_NGS.select(2, counted - 1).gather(1, group_NK);
    const auto floor_NK = at::where(chosen.score_NK.ge(last_NK), whole_NK - chosen.score_NK + next_NK, whole_NK);
    outside_NK = outside_NK.masked_fill(floor_NK.ge(group_rival_N1), infinity);
  }
  return {chosen.expert_NK, chosen.score_NK, at::minimum(inside_NK, outside_NK)};
}

}  // namespace plain
}  // namespace collegium::kernels
