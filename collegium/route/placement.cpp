#include "collegium/route/placement.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "collegium/base/numbers.h"
#include "collegium/kernels/group.h"

namespace collegium::route {
Placement::Placement(const Decision& limited, const Scores& scores, const Context& context, int64_t slots)
    : before_(limited),
      E_(limited.n_experts()),
      n_real_(route::n_real(context, limited.n_tokens())),
      near_NE_(scores.score_NE.detach().slice(1, 0, E_)),
      score_NE_(near_NE_.to(at::kCPU, at::kDouble).contiguous()),
      there_(static_cast<size_t>(limited.n_tokens() * E_)),
      room_(ints(limited.kept_E())) {
  if (context.mask_N.defined()) real_ = ints(context.mask_N.nonzero().flatten());
  const auto token = ints(limited.token_R()), expert = ints(limited.expert_R());
  for (size_t i = 0; i < token.size(); ++i) is_there(token[i], expert[i]) = 1;
  for (auto& room : room_) room = std::min(slots, n_real_) - room;
  lost_.resize(static_cast<size_t>(limited.n_dropped()));
  std::iota(lost_.begin(), lost_.end(), 0);
}

int64_t Placement::place(int64_t token) const {
  return real_.empty() ? token : std::lower_bound(real_.begin(), real_.end(), token) - real_.begin();
}

void Placement::add(int64_t token, int64_t expert, int64_t rank, int64_t wanted, double margin) {
  token_.push_back(token), expert_.push_back(expert), rank_.push_back(rank), wanted_.push_back(wanted);
  margin_.push_back(margin);
  is_there(token, expert) = 1;
}

void Placement::move_dropped(const std::function<Range(int64_t)>& range_of, bool beyond_slots) {
  const auto& gone = before_.dropped();
  const auto token = ints(gone.token_Q), expert = ints(gone.expert_Q), rank = ints(gone.rank_Q);
  const auto margin_Q = gone.margin_Q.to(at::kCPU, at::kDouble).contiguous();
  const auto* score = score_NE_.const_data_ptr<double>();
  auto queue = std::move(lost_);
  lost_.clear();
  std::stable_sort(queue.begin(), queue.end(),
                   [&](int64_t a, int64_t b) { return token[static_cast<size_t>(a)] < token[static_cast<size_t>(b)]; });
  for (const auto q : queue) {
    const auto i = static_cast<size_t>(q);
    const auto n = token[i];
    const auto range = range_of(n);
    const auto* row = score + n * E_;
    const auto best_of = [&](bool with_room) {
      int64_t best = -1;
      for (auto e = range.begin; e < range.end; ++e)
        if ((!with_room || room_[static_cast<size_t>(e)] > 0) && !is_there(n, e) && (best < 0 || row[e] > row[best]))
          best = e;
      return best;
    };
    auto best = best_of(true);
    if (best < 0 && beyond_slots) best = best_of(false);
    if (best < 0) {
      lost_.push_back(q);
      continue;
    }
    --room_[static_cast<size_t>(best)];
    add(n, best, rank[i], expert[i], margin_Q.const_data_ptr<double>()[q]);
  }
}

void Placement::fill_free() {
  for (int64_t e = 0; e < E_; ++e)
    if (room_[static_cast<size_t>(e)] > 0) fill(e);
}

// The best-scoring real tokens that the expert does not have yet; earlier ones among equals.
void Placement::fill(int64_t e) {
  const auto* score = score_NE_.const_data_ptr<double>();
  std::vector<int64_t> candidates;
  for (int64_t i = 0; i < n_real_; ++i)
    if (const auto n = real_.empty() ? i : real_[static_cast<size_t>(i)]; !is_there(n, e)) candidates.push_back(n);
  const auto ahead = [&](int64_t a, int64_t b) {
    const auto x = score[a * E_ + e], y = score[b * E_ + e];
    return x != y ? x > y : a < b;
  };
  const auto taken = std::min<int64_t>(room_[static_cast<size_t>(e)], static_cast<int64_t>(candidates.size()));
  std::partial_sort(candidates.begin(), candidates.begin() + taken, candidates.end(), ahead);
  const auto next =
      std::max_element(candidates.begin() + taken, candidates.end(), [&](int64_t a, int64_t b) { return ahead(b, a); });
  const auto rival = next == candidates.end() ? -std::numeric_limits<double>::infinity() : score[*next * E_ + e];
  for (int64_t i = 0; i < taken; ++i) {
    const auto n = candidates[static_cast<size_t>(i)];
    const auto* row = score + n * E_;
    int64_t rank = 0;
    for (int64_t other = 0; other < E_; ++other) rank += row[other] > row[e] || (row[other] == row[e] && other < e);
    add(n, e, rank, -1, row[e] - rival);
  }
}

Decision Placement::decision() const {
  const auto& d = before_;
  if (token_.empty()) return d;
  const auto device = d.token_R().device();
  const auto index = [&](const std::vector<int64_t>& v) { return at::tensor(v, at::kLong).to(device); };
  const auto token_A = index(token_), expert_A = index(expert_);
  const auto expert_R = at::cat({d.expert_R(), expert_A});
  const auto score_A = near_NE_.reshape({-1}).index_select(0, token_A * E_ + expert_A).to(d.score_R());
  const auto order_R = kernels::group_by_expert(expert_R, E_).order_R;
  const auto sorted = [&](const Tensor& before, const Tensor& more) {
    return at::cat({before, more}).index_select(0, order_R);
  };
  const auto lost_L = index(lost_);
  const auto& gone = d.dropped();
  return Decision::from_parts(
      {.n_tokens = d.n_tokens(),
       .n_experts = E_,
       .token_R = sorted(d.token_R(), token_A),
       .expert_R = expert_R.index_select(0, order_R),
       .gate_R = {},
       .rank_R = sorted(d.rank_R(), index(rank_)),
       .slot_R = {},
       .score_R = sorted(d.score_R(), score_A),
       .margin_R = sorted(d.margin_R(), at::tensor(margin_, at::kDouble).to(d.margin_R())),
       .wanted_R = sorted(d.wanted_R(), index(wanted_)),
       .dropped = {gone.token_Q.index_select(0, lost_L), gone.expert_Q.index_select(0, lost_L),
                   gone.rank_Q.index_select(0, lost_L), gone.score_Q.index_select(0, lost_L),
                   gone.margin_Q.index_select(0, lost_L), gone.reason_Q.index_select(0, lost_L)}});
}

}  // namespace collegium::route
