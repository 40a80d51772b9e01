// One token's choices by a rule, for the loops over tokens that need them.
//
// Legend: E experts, G groups, K choices.
#pragma once
#include <algorithm>
#include <limits>
#include <optional>

#include "collegium/kernels/grouped_top_k.h"
#include "collegium/kernels/work.h"

namespace collegium::kernels {

// How many of a group's best scores count for it.
inline int64_t counted_of(GroupScore score, int64_t size) {
  return score == GroupScore::max ? 1 : score == GroupScore::sum ? size : std::min<int64_t>(2, size);
}

// A NaN on either side is the smaller one, as in at::minimum.
template <class C>
C smaller(C a, C b) {
  return a != a ? a : b != b ? b : std::min(a, b);
}

template <class C>
class GroupedRow {
 public:
  GroupedRow(const GroupRule& rule, int64_t n_experts)
      : rule_(rule),
        E_(n_experts),
        size_(n_experts / rule.groups),
        counted_(counted_of(rule.group_score, size_)),
        K_(rule.per_token()),
        compared_(E_),
        allowed_(E_),
        best_(E_),
        group_score_(rule.groups),
        best_group_(rule.groups),
        where_(E_),
        where_group_(rule.groups) {
    // The leaders that somebody asks for: those that count and the next one, and in `each` the best one left out.
    if (!is_sum()) leaders_ = std::min(size_, counted_ + 1);
    if (is_each()) leaders_ = std::max(leaders_, std::min(size_, rule.k + 1));
    lead_.emplace(rule.groups * leaders_), where_lead_.emplace(rule.groups * leaders_);
  }

  void choose(const C* score, const C* bias, int64_t* expert_out, C* score_out, C* margin_out) {
    const C* row = score;
    if (bias) loop_.add(score, bias, E_, compared_.get()), row = compared_.get();
    rank_groups(row);
    const auto G = rule_.groups, top = rule_.top_groups;
    C* const best_group = best_group_.get();
    loop_.top(group_score_.get(), G, std::min(G, top + 1), best_group, where_group_.get());
    const C group_rival = top < G ? best_group[top] : never;

    open_groups(row);
    loop_.top(allowed_.get(), E_, std::min(E_, K_ + 1), best_.get(), where_.get());
    const C rival = K_ < E_ ? best_.get()[K_] : never;
    for (int64_t j = 0; j < K_; ++j) {
      const auto e = where_.get()[j], g = e / size_;
      const C s = best_.get()[j];
      const C rival_inside = !is_each() ? rival : rule_.k < size_ ? lead(g)[rule_.k] : never;
      expert_out[j] = e, score_out[j] = s;
      margin_out[j] = smaller(s - rival_inside, group_margin(g, s, group_rival));
    }
  }

 private:
  static constexpr C never = -std::numeric_limits<C>::infinity();
  bool is_sum() const { return rule_.group_score == GroupScore::sum; }
  bool is_each() const { return rule_.within == WithinGroups::each; }
  const C* lead(int64_t g) const { return lead_->get() + g * leaders_; }
  const int64_t* where_lead(int64_t g) const { return where_lead_->get() + g * leaders_; }

  void rank_groups(const C* row) {
    for (int64_t g = 0; g < rule_.groups; ++g) {
      const C* group = row + g * size_;
      if (leaders_ > 0)
        loop_.top(group, size_, leaders_, lead_->get() + g * leaders_, where_lead_->get() + g * leaders_);
      C sum = 0;
      const C* const summed = is_sum() ? group : lead(g);
      for (int64_t i = 0; i < counted_; ++i) sum += summed[i];
      group_score_.get()[g] = sum;
    }
  }

  void open_groups(const C* row) {
    C* const allowed = allowed_.get();
    std::fill_n(allowed, E_, never);
    for (int64_t i = 0; i < rule_.top_groups; ++i) {
      const auto g = where_group_.get()[i], first = g * size_;
      if (!is_each() || rule_.k == size_) {
        std::copy_n(row + first, size_, allowed + first);
        continue;
      }
      for (int64_t j = 0; j < rule_.k; ++j) allowed[first + where_lead(g)[j]] = row[first + where_lead(g)[j]];
    }
  }

  C group_margin(int64_t g, C s, C group_rival) const {
    const C whole = group_score_.get()[g];
    if (!is_sum() && counted_ < size_) {
      const C next = lead(g)[counted_], last = lead(g)[counted_ - 1];
      const C floor = s >= last ? whole - s + next : whole;
      if (floor >= group_rival) return -never;
    }
    return whole - group_rival;
  }

  const ScoreLoops<C>& loop_ = score_loops<C>();
  GroupRule rule_;
  int64_t E_, size_, counted_, K_, leaders_ = 0;
  Scratch<C> compared_, allowed_, best_, group_score_, best_group_;
  Scratch<int64_t> where_, where_group_;
  std::optional<Scratch<C>> lead_;
  std::optional<Scratch<int64_t>> where_lead_;
};

/// The same where all experts are one group: the K best of a row.
template <class C>
class TopRow {
 public:
  TopRow(const GroupRule& rule, int64_t n_experts)
      : E_(n_experts), K_(rule.k), keep_(std::min(K_ + 1, E_)), compared_(E_), best_(keep_), where_(keep_) {}

  void choose(const C* score, const C* bias, int64_t* expert_out, C* score_out, C* margin_out) {
    const C* row = score;
    if (bias) loop_.add(score, bias, E_, compared_.get()), row = compared_.get();
    loop_.top(row, E_, keep_, best_.get(), where_.get());
    const C rival = keep_ > K_ ? best_.get()[K_] : -std::numeric_limits<C>::infinity();
    for (int64_t j = 0; j < K_; ++j)
      expert_out[j] = where_.get()[j], score_out[j] = best_.get()[j], margin_out[j] = best_.get()[j] - rival;
  }

 private:
  const ScoreLoops<C>& loop_ = score_loops<C>();
  int64_t E_, K_, keep_;
  Scratch<C> compared_, best_;
  Scratch<int64_t> where_;
};

}  // namespace collegium::kernels
