#include "collegium/kernels/assignments.h"

#include <ATen/ATen.h>

#include <vector>

#include "collegium/base/error.h"
#include "collegium/kernels/counting_sort.h"
#include "collegium/kernels/group.h"
#include "collegium/kernels/work.h"

namespace collegium::kernels {
namespace {

void check_assigned(const Assigned& list) {
  const auto check = [&](const Tensor& t, std::string_view what, bool is_right_type) {
    require(t.dim() == 1 && t.size(0) == list.token_R.size(0) && is_right_type, "sort_assignments: ", what, " of [",
            list.token_R.numel(), "] wanted, got ", t.scalar_type(), " ", t.sizes());
  };
  for (const auto& [t, what] : {std::pair{list.token_R, "token"}, {list.expert_R, "expert"}, {list.rank_R, "rank"}})
    check(t, what, t.scalar_type() == at::kLong);
  for (const auto& [t, what] : {std::pair{list.score_R, "score"}, {list.margin_R, "margin"}})
    check(t, what, at::isFloatingType(t.scalar_type()));
}

void check_token_range(int64_t low, int64_t high, int64_t n_tokens) {
  require(low >= 0 && high < n_tokens, "sort_assignments: token ids must be in [0, ", n_tokens, "), got ",
          low < 0 ? low : high);
}

Assigned taken(const Assigned& list, const Tensor& order_R) {
  const auto take = [&](const Tensor& t) { return t.index_select(0, order_R); };
  return {take(list.token_R), take(list.expert_R), take(list.rank_R), take(list.score_R), take(list.margin_R)};
}

bool is_ascending(const int64_t* id, int64_t n) {
  bool out = true;
  for (int64_t r = 1; r < n; ++r) out &= id[r - 1] <= id[r];
  return out;
}

// Rows ascend by token. Chunks of rows are counted, then placed behind the same expert's rows of the chunks before.
template <class C>
SortedAssignments by_counting(const Assigned& list, int64_t n_experts) {
  const int64_t R = list.token_R.size(0), E = n_experts;
  const auto like = [&](const Tensor& t) { return fresh({R}, t.options()); };
  SortedAssignments out{
      {like(list.token_R), like(list.expert_R), like(list.rank_R), like(list.score_R), like(list.margin_R)},
      like(list.token_R),
      fresh({E + 1}, at::kLong)};
  const auto *token = data<int64_t>(list.token_R), *expert = data<int64_t>(list.expert_R);
  const int64_t chunks = R < 8192 ? 1 : at::get_num_threads();
  const auto first = [&](int64_t c) { return R * c / chunks; };
  std::vector<int64_t> next(static_cast<size_t>(chunks * E)), outside(static_cast<size_t>(chunks), -1);
  at::parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      auto* count = next.data() + c * E;
      for (int64_t r = first(c); r < first(c + 1); ++r) {
        if (expert[r] < 0 || expert[r] >= E) {
          outside[static_cast<size_t>(c)] = r;
          return;
        }
        ++count[expert[r]];
      }
    }
  });
  for (const auto r : outside)
    if (r >= 0) fail(ErrorKind::usage, "sort_assignments: expert ids must be in [0, ", E, "), got ", expert[r]);
  auto* offset = mutable_data<int64_t>(out.offset_E1);
  place_chunks(next.data(), chunks, E, offset);

  const auto* rank = data<int64_t>(list.rank_R);
  const C *score = data<C>(list.score_R), *margin = data<C>(list.margin_R);
  auto *to_token = mutable_data<int64_t>(out.sorted.token_R), *to_expert = mutable_data<int64_t>(out.sorted.expert_R),
       *to_rank = mutable_data<int64_t>(out.sorted.rank_R), *to_slot = mutable_data<int64_t>(out.slot_R);
  C *to_score = mutable_data<C>(out.sorted.score_R), *to_margin = mutable_data<C>(out.sorted.margin_R);
  at::parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      auto* place = next.data() + c * E;
      for (int64_t r = first(c); r < first(c + 1); ++r) {
        const auto e = expert[r], to = place[e]++;
        to_token[to] = token[r], to_expert[to] = e, to_rank[to] = rank[r], to_slot[to] = to - offset[e];
        to_score[to] = score[r], to_margin[to] = margin[r];
      }
    }
  });
  return out;
}

}  // namespace

SortedAssignments sort_assignments(const Assigned& list, int64_t n_tokens, int64_t n_experts) {
  check_assigned(list);
  const auto type = list.score_R.scalar_type();
  const bool is_cpu = list.token_R.is_cpu() && list.expert_R.is_cpu() && list.rank_R.is_cpu() &&
                      list.score_R.is_cpu() && list.margin_R.is_cpu();
  if (!is_cpu || (type != at::kFloat && type != at::kDouble) || list.margin_R.scalar_type() != type)
    return plain::sort_assignments(list, n_tokens, n_experts);
  Assigned rows{list.token_R.contiguous(), list.expert_R.contiguous(), list.rank_R.contiguous(),
                list.score_R.detach().contiguous(), list.margin_R.detach().contiguous()};
  // Most lists come token by token; others are brought into that order first.
  const auto R = rows.token_R.size(0);
  if (R > 0) {
    if (!is_ascending(data<int64_t>(rows.token_R), R))
      rows = taken(rows, group_by_expert(rows.token_R, n_tokens).order_R);
    check_token_range(data<int64_t>(rows.token_R)[0], data<int64_t>(rows.token_R)[R - 1], n_tokens);
  }
  return type == at::kFloat ? by_counting<float>(rows, n_experts) : by_counting<double>(rows, n_experts);
}

namespace plain {

SortedAssignments sort_assignments(const Assigned& list, int64_t n_tokens, int64_t n_experts) {
  check_assigned(list);
  if (list.token_R.numel() > 0)
    check_token_range(list.token_R.min().item<int64_t>(), list.token_R.max().item<int64_t>(), n_tokens);
  const auto by_token =
      taken(list, std::get<1>(at::sort(list.token_R, /*stable=*/true, /*dim=*/0, /*descending=*/false)));
  const auto grouped = group_by_expert(by_token.expert_R, n_experts);
  SortedAssignments out{taken(by_token, grouped.order_R), {}, grouped.offset_E1};
  const auto& expert_R = out.sorted.expert_R;
  out.slot_R = at::arange(expert_R.size(0), expert_R.options()) -
               grouped.offset_E1.to(expert_R.device()).index_select(0, expert_R);
  return out;
}

}  // namespace plain
}  // namespace collegium::kernels
