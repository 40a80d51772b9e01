#include "collegium/route/decision.h"

#include <ATen/ATen.h>

#include "collegium/base/error.h"

namespace collegium::route {
namespace {

Tensor offsets_of(const Tensor& expert_R, int64_t n_experts) {
  auto offset_E1 = at::zeros({n_experts + 1}, at::kLong);
  if (expert_R.size(0) > 0) offset_E1.slice(0, 1).copy_(at::bincount(expert_R, {}, n_experts).cumsum(0));
  return offset_E1;
}

Tensor slots_of(const Tensor& expert_R, const Tensor& offset_E1) {
  const auto start_R = offset_E1.to(expert_R.device()).index_select(0, expert_R);
  return at::arange(expert_R.size(0), expert_R.options()) - start_R;
}

Dropped no_drops(const Tensor& like_int, const Tensor& like_score) {
  const auto none = at::empty({0}, like_int.options());
  const auto none_score = at::empty({0}, like_score.options());
  return {none, none, none, none_score, none_score, none};
}

}  // namespace

Decision Decision::make(const Assignments& asked, int64_t n_tokens, int64_t n_experts) {
  return of_sorted(
      kernels::sort_assignments({asked.token_A, asked.expert_A, asked.rank_A, asked.score_A, asked.margin_A}, n_tokens,
                                n_experts),
      n_tokens, n_experts);
}

Decision Decision::of_sorted(kernels::SortedAssignments rows, int64_t n_tokens, int64_t n_experts) {
  Decision d;
  auto& by = rows.sorted;
  d.parts_ = {.n_tokens = n_tokens,
              .n_experts = n_experts,
              .token_R = by.token_R,
              .expert_R = by.expert_R,
              .gate_R = {},
              .rank_R = by.rank_R,
              .slot_R = rows.slot_R,
              .score_R = by.score_R,
              .margin_R = by.margin_R,
              .dropped = no_drops(by.token_R, by.score_R)};
  d.offset_E1_ = rows.offset_E1;
  return d;
}

Decision Decision::from_parts(Parts parts) {
  Decision d;
  if (!parts.dropped.token_Q.defined()) parts.dropped = no_drops(parts.token_R, parts.score_R);
  d.offset_E1_ = offsets_of(parts.expert_R, parts.n_experts);
  if (!parts.slot_R.defined()) parts.slot_R = slots_of(parts.expert_R, d.offset_E1_);
  d.parts_ = std::move(parts);
  return d;
}

Tensor Decision::kept_E() const {
  return offset_E1_.diff();
}

int64_t Decision::n_filled() const {
  return is_rerouted() ? parts_.wanted_R.lt(0).sum().item<int64_t>() : 0;
}

Tensor Decision::asked_E() const {
  // One place more at the front takes the fill-ins, -1.
  const auto here_E =
      is_rerouted() ? at::bincount(parts_.wanted_R + 1, {}, n_experts() + 1).slice(0, 1).cpu() : kept_E();
  return n_dropped() == 0 ? here_E : here_E + at::bincount(parts_.dropped.expert_Q, {}, n_experts()).cpu();
}

Decision Decision::with_gates(Tensor gate_R) const {
  ensure(gate_R.dim() == 1 && gate_R.size(0) == n_kept(), "a gate weight for each kept assignment is needed");
  Decision d = *this;
  d.parts_.gate_R = std::move(gate_R);
  return d;
}

Decision Decision::only_experts(int64_t n_experts) const {
  ensure(n_experts <= parts_.n_experts && !is_rerouted(),
         "only_experts: a fresh decision over at least as many is needed");
  const auto kept = parts_.expert_R.lt(n_experts).nonzero().flatten();
  const auto gone = parts_.dropped.expert_Q.lt(n_experts).nonzero().flatten();
  const auto pick = [](const Tensor& t, const Tensor& index) { return t.defined() ? t.index_select(0, index) : t; };
  const auto& q = parts_.dropped;
  return from_parts({.n_tokens = parts_.n_tokens,
                     .n_experts = n_experts,
                     .token_R = pick(parts_.token_R, kept),
                     .expert_R = pick(parts_.expert_R, kept),
                     .gate_R = pick(parts_.gate_R, kept),
                     .rank_R = pick(parts_.rank_R, kept),
                     .slot_R = {},
                     .score_R = pick(parts_.score_R, kept),
                     .margin_R = pick(parts_.margin_R, kept),
                     .wanted_R = {},
                     .dropped = {pick(q.token_Q, gone), pick(q.expert_Q, gone), pick(q.rank_Q, gone),
                                 pick(q.score_Q, gone), pick(q.margin_Q, gone), pick(q.reason_Q, gone)}});
}

Decision Decision::turned(int64_t shift) const {
  const auto E = parts_.n_experts;
  ensure(shift >= 0 && shift < E, "turned: a shift in [0, n_experts) is needed");
  if (shift == 0 || n_tokens() == 0) return *this;
  // Rows stay sorted: those of the experts that turn to the front come first.
  const auto cut = offset_E1_[E - shift].item<int64_t>();
  const auto turn = [&](const Tensor& t_R) {
    return t_R.defined() ? at::cat({t_R.slice(0, cut), t_R.slice(0, 0, cut)}) : t_R;
  };
  auto p = parts_;
  for (auto* t : {&p.token_R, &p.gate_R, &p.rank_R, &p.slot_R, &p.score_R, &p.margin_R}) *t = turn(*t);
  p.expert_R = turn((p.expert_R + shift).remainder(E));
  if (p.wanted_R.defined()) p.wanted_R = turn(at::where(p.wanted_R.ge(0), (p.wanted_R + shift).remainder(E), -1));
  if (p.dropped.expert_Q.defined()) p.dropped.expert_Q = (p.dropped.expert_Q + shift).remainder(E);
  return from_parts(std::move(p));
}

Decision Decision::keep_only(const Tensor& keep_R, DropReason reason) const {
  const auto kept = keep_R.nonzero().flatten();
  if (kept.size(0) == n_kept()) return *this;
  const auto gone = keep_R.logical_not().nonzero().flatten();
  const auto pick = [](const Tensor& t, const Tensor& index) { return t.defined() ? t.index_select(0, index) : t; };
  const auto join = [&](const Tensor& before, const Tensor& now) { return at::cat({before, pick(now, gone)}); };
  const auto& old = parts_.dropped;
  Parts p{
      .n_tokens = n_tokens(),
      .n_experts = n_experts(),
      .token_R = pick(parts_.token_R, kept),
      .expert_R = pick(parts_.expert_R, kept),
      .gate_R = pick(parts_.gate_R, kept),
      .rank_R = pick(parts_.rank_R, kept),
      .slot_R = {},
      .score_R = pick(parts_.score_R, kept),
      .margin_R = pick(parts_.margin_R, kept),
      .wanted_R = pick(parts_.wanted_R, kept),
      .dropped = {join(old.token_Q, parts_.token_R), join(old.expert_Q, wanted_R()), join(old.rank_Q, parts_.rank_R),
                  join(old.score_Q, parts_.score_R), join(old.margin_Q, parts_.margin_R),
                  at::cat({old.reason_Q, at::full_like(gone, static_cast<int64_t>(reason))})}};
  return from_parts(std::move(p));
}

}  // namespace collegium::route
