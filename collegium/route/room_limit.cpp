#include "collegium/route/room_limit.h"

#include <ATen/ATen.h>

#include <cmath>

namespace collegium::route {

std::span<const std::string_view> enum_names(Priority) {
  static constexpr std::array<std::string_view, 3> names = {"position", "rank", "score"};
  return names;
}

int64_t slots_per_expert(double factor, int64_t tokens, int64_t minimum, int64_t n_asked, int64_t n_experts) {
  if (tokens > 0) return tokens;
  // The small term keeps 1.1 * 10 from becoming 12.
  const auto slots = std::ceil(factor * static_cast<double>(n_asked) / static_cast<double>(n_experts) - 1e-9);
  return std::max(minimum, static_cast<int64_t>(slots));
}

Tensor fits_R(const Decision& decision, const Tensor& group_R, const std::vector<int64_t>& slots_G, Priority priority) {
  const auto R = decision.n_kept(), n_groups = static_cast<int64_t>(slots_G.size());
  const auto queue_R = decision.expert_R() * n_groups + group_R;
  // Rows come sorted by expert, then token; stable sorts on top of that order give every priority its tie rule.
  auto order_R = at::arange(R, queue_R.options());
  if (priority == Priority::rank) order_R = decision.rank_R().argsort(/*stable=*/true, 0, false);
  if (priority == Priority::score) order_R = decision.score_R().argsort(/*stable=*/true, 0, /*descending=*/true);
  order_R = order_R.index_select(0, queue_R.index_select(0, order_R).argsort(/*stable=*/true, 0, false));

  const auto sorted_queue_R = queue_R.index_select(0, order_R);
  const auto count_Q = at::bincount(sorted_queue_R, {}, decision.n_experts() * n_groups);
  const auto start_Q = count_Q.cumsum(0) - count_Q;
  const auto place_R = at::arange(R, queue_R.options()) - start_Q.index_select(0, sorted_queue_R);
  const auto slots_R = at::tensor(slots_G, at::kLong).to(group_R.device()).index_select(0, group_R);
  return at::empty({R}, queue_R.options().dtype(at::kBool))
      .index_copy_(0, order_R, place_R.lt(slots_R.index_select(0, order_R)));
}

}  // namespace collegium::route
