// Top-k under group limits: groups of neighbouring experts first, then experts inside the groups taken.
//
// Legend: N tokens, E experts, G groups of S = E / G experts, K experts per token.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <string_view>

namespace collegium::kernels {

using at::Tensor;

/// What ranks a group: its best score, the sum of its scores, or of its two best.
enum class GroupScore { max, sum, top2_sum };
std::span<const std::string_view> enum_names(GroupScore);

/// k experts in each group taken, or k over all of them together.
enum class WithinGroups { each, together };
std::span<const std::string_view> enum_names(WithinGroups);

struct GroupRule {
  int64_t groups = 1, top_groups = 1, k = 1;
  GroupScore group_score = GroupScore::sum;
  WithinGroups within = WithinGroups::together;
  int64_t per_token() const { return k * (within == WithinGroups::each ? top_groups : 1); }
};

/// Throws a usage Error unless groups divide the experts, top_groups <= groups, and k fits into the groups taken.
void check_group_rule(const GroupRule& rule, int64_t n_experts);

struct GroupedTopK {
  Tensor expert_NK;  ///< int64 ids, best first
  Tensor score_NK;   ///< their scores, bias included
  /// How far a score may fall before the assignment is lost: to the best expert that the same rule left out inside the
  /// groups, or with its whole group to the best group left out. Below the group's score without this expert a further
  /// fall changes nothing for the group. +inf without a rival.
  Tensor margin_NK;
};

/// Each token takes `top_groups` groups by their score, then its experts in them. What is outside counts as -infinity.
/// Ties go to the lower group, then to the lower expert. bias_E as in top_k. Nothing here carries a gradient. score_NE:
/// floating point; groups divide E, top_groups <= groups, and k fits into the groups taken. Throws a usage Error
/// otherwise.
GroupedTopK grouped_top_k(const Tensor& score_NE, const GroupRule& rule, const Tensor& bias_E = {});

namespace plain {
/// The same with ordinary torch operations, on any device.
GroupedTopK grouped_top_k(const Tensor& score_NE, const GroupRule& rule, const Tensor& bias_E = {});
}  // namespace plain

}  // namespace collegium::kernels
