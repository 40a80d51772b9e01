// Why one token got its experts.
//
// N tokens, E experts that work, X experts that are chosen from: the E, then null experts. R kept assignments, Q
// dropped ones.
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>

#include "collegium/base/error.h"
#include "collegium/base/numbers.h"
#include "collegium/base/text_table.h"
#include "collegium/inspect/insight.h"

namespace collegium {
namespace {

using route::Decision;
using route::Priority;

// One assignment, wherever it went. expert: -1 = dropped; wanted: -1 = nobody asked, it fills a free slot.
struct Assigned {
  int64_t token, expert, wanted, rank, slot;
  double gate, score, margin;
  bool has_its_wish() const { return wanted >= 0 && expert == wanted; }
  bool is_moved() const { return wanted >= 0 && expert >= 0 && expert != wanted; }
};

std::vector<Assigned> assignments_of(const Decision& d) {
  std::vector<Assigned> out;
  const auto token = ints(d.token_R()), expert = ints(d.expert_R()), wanted = ints(d.wanted_R()),
             rank = ints(d.rank_R()), slot = ints(d.slot_R());
  const auto gate = d.gate_R().defined() ? reals(d.gate_R()) : std::vector<double>(token.size());
  const auto score = reals(d.score_R()), margin = reals(d.margin_R());
  for (size_t r = 0; r < token.size(); ++r)
    out.push_back({token[r], expert[r], wanted[r], rank[r], slot[r], gate[r], score[r], margin[r]});
  const auto& q = d.dropped();
  const auto gone = ints(q.token_Q), asked = ints(q.expert_Q), gone_rank = ints(q.rank_Q);
  const auto gone_score = reals(q.score_Q), gone_margin = reals(q.margin_Q);
  for (size_t i = 0; i < gone.size(); ++i)
    out.push_back({gone[i], -1, asked[i], gone_rank[i], -1, 0, gone_score[i], gone_margin[i]});
  return out;
}

// What happened between one token and one expert.
struct Meeting {
  std::optional<double> score, bias, compared, turns_at, gate, margin;
  std::optional<double> short_of;  // how far its score is below the last one that got a place
  int64_t rank = -1, slot = -1, group = -1, moved_to = -1, moved_from = -1;
  int64_t asked = 0, kept = 0;
  int64_t queue = -1, room = 0;  // its place among those that asked, and how many of these were kept
  bool is_null = false, is_kept = false, is_dropped = false, is_filled = false, takes_group = false;
  bool is_beyond = false;  // of the expert's places: no other had room either
  bool is_chosen() const { return rank >= 0; }
  bool is_asked() const { return is_chosen() || moved_to >= 0; }
};

std::string_view order_words(Priority order) {
  switch (order) {
    case Priority::position:
      return "earlier tokens first";
    case Priority::rank:
      return "first choices first, then earlier tokens";
    case Priority::score:
      return "higher scores first";
  }
  return {};
}

bool goes_before(const Assigned& a, const Assigned& b, Priority order) {
  if (order == Priority::rank && a.rank != b.rank) return a.rank < b.rank;
  if (order == Priority::score && a.score != b.score) return a.score > b.score;
  return a.token < b.token;
}

class Explanation {
 public:
  Explanation(const Decision& d, int64_t token, const Tensor& score_NX, const Tensor& bias_X, const route::Reasons& why)
      : d_(d), token_(token), why_(why), all_(assignments_of(d)) {
    const auto known = [](const Tensor& t) { return t.defined() ? t.size(-1) : 0; };
    meetings_.resize(static_cast<size_t>(std::max({d.n_experts(), known(score_NX), known(why.compared_NE)})));
    if (score_NX.defined()) score_X_ = reals(score_NX[token]);
    read_numbers(bias_X);
    read_null_choices();
    for (const auto& a : all_)
      if (a.token == token_) read(a);
    for (auto& m : meetings_)
      if (!m.is_asked() && m.compared && m.turns_at && std::isfinite(*m.turns_at)) m.margin = *m.compared - *m.turns_at;
  }

  nlohmann::json rows() const {
    std::vector<size_t> order(meetings_.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](size_t i, size_t j) {
      const auto &a = meetings_[i], &b = meetings_[j];
      if (a.is_asked() != b.is_asked()) return a.is_asked();
      const auto x = a.compared.value_or(0), y = b.compared.value_or(0);
      return x != y ? x > y : a.rank < b.rank;
    });
    auto out = nlohmann::json::array();
    for (const auto e : order) out.push_back(row(static_cast<int64_t>(e)));
    return out;
  }

 private:
  Meeting& at(int64_t expert) { return meetings_[static_cast<size_t>(expert)]; }

  void read_numbers(const Tensor& bias_X) {
    const auto fill = [&](const Tensor& t_X, auto&& set) {
      if (!t_X.defined()) return;
      const auto row = reals(t_X);
      for (size_t e = 0; e < std::min(meetings_.size(), row.size()); ++e) set(meetings_[e], row[e]);
    };
    const auto row_of = [&](const Tensor& t_NX) { return t_NX.defined() ? t_NX[token_] : Tensor(); };
    for (size_t e = 0; e < std::min(meetings_.size(), score_X_.size()); ++e) meetings_[e].score = score_X_[e];
    fill(bias_X, [](Meeting& m, double v) { m.bias = v; });
    fill(row_of(why_.compared_NE), [](Meeting& m, double v) { m.compared = v; });
    fill(row_of(why_.turns_at_NE), [](Meeting& m, double v) { m.turns_at = v; });
    fill(row_of(why_.group_taken_NE), [](Meeting& m, double v) { m.takes_group = v > 0; });
    for (size_t e = 0; e < std::min(meetings_.size(), why_.group_E.size()); ++e) meetings_[e].group = why_.group_E[e];
    const auto asked_E = ints(d_.asked_E()), kept_E = ints(d_.kept_E());
    for (size_t e = 0; e < meetings_.size(); ++e) {
      auto& m = meetings_[e];
      m.is_null = e >= kept_E.size();
      if (!m.is_null) m.asked = asked_E[e], m.kept = kept_E[e];
      if (!m.compared && m.score) m.compared = *m.score + m.bias.value_or(0);
    }
  }

  // Null experts are in no decision: that one was chosen follows from what was compared.
  void read_null_choices() {
    for (auto& m : meetings_) {
      if (!m.is_null || !m.compared || !m.turns_at || !(*m.compared > *m.turns_at)) continue;
      m.rank = std::count_if(meetings_.begin(), meetings_.end(),
                             [&](const Meeting& other) { return other.compared.value_or(0) > *m.compared; });
      if (std::isfinite(*m.turns_at)) m.margin = *m.compared - *m.turns_at;
    }
  }

  void read(const Assigned& a) {
    if (a.wanted >= 0) find_place(a, at(a.wanted));
    // The margin is one of the choice: it belongs to the expert that was asked for.
    auto& asked = at(a.wanted >= 0 ? a.wanted : a.expert);
    if (std::isfinite(a.margin)) {
      asked.margin = a.margin;
      // Some routers tell no scores of all experts, only of what they chose.
      if (!a.is_moved() && !asked.score && !asked.compared) asked.score = asked.compared = a.score;
    }
    if (a.expert < 0) {
      asked.is_dropped = true, asked.rank = a.rank;
      return;
    }
    auto& m = at(a.expert);
    m.is_kept = true, m.rank = a.rank, m.slot = a.slot, m.gate = a.gate, m.is_filled = a.wanted < 0;
    if (!a.is_moved()) return;
    asked.moved_to = a.expert, m.moved_from = a.wanted;
    find_others(a, m);
  }

  // What an assignment was compared by for places: a moved one has the score of where it went.
  double asked_score(const Assigned& a) const {
    return a.is_moved() && why_.compared_NE.defined() ? why_.compared_NE[a.token][a.wanted].item<double>() : a.score;
  }

  // Places of an expert that was full.
  int64_t slots_of(int64_t expert) const {
    return why_.places.slots.value_or(std::count_if(
        all_.begin(), all_.end(), [&](const Assigned& a) { return a.wanted == expert && a.has_its_wish(); }));
  }

  void find_place(const Assigned& mine, Meeting& m) const {
    std::vector<Assigned> queue;
    for (auto a : all_)
      if (a.wanted == mine.wanted) a.score = asked_score(a), queue.push_back(a);
    m.room = slots_of(mine.wanted);
    if (!why_.places.order) return;
    std::stable_sort(queue.begin(), queue.end(),
                     [&](const auto& a, const auto& b) { return goes_before(a, b, *why_.places.order); });
    const auto me = std::find_if(queue.begin(), queue.end(), [&](const auto& a) { return a.token == token_; });
    const auto place = me - queue.begin();
    const auto is_beyond = place >= m.room && mine.has_its_wish();
    if ((place < m.room && !mine.has_its_wish()) || (is_beyond && !why_.places.slots)) return;  // not the queue decided
    m.queue = place, m.is_beyond = is_beyond;
    if (*why_.places.order == Priority::score && place >= m.room && m.room > 0)
      m.short_of = queue[static_cast<size_t>(m.room - 1)].score - me->score;
  }

  // How far the score may fall before what found no place goes to another expert: the best of those that could have
  // had it when its turn came.
  void find_others(const Assigned& mine, Meeting& m) const {
    if (why_.places.elsewhere.empty() || score_X_.empty()) return;
    const auto E = d_.n_experts();
    std::vector<int64_t> taken_E(static_cast<size_t>(E));
    std::vector<bool> has_it(static_cast<size_t>(E));
    for (const auto& a : all_) {
      if (a.expert < 0 || a.wanted < 0) continue;
      taken_E[static_cast<size_t>(a.expert)] += a.has_its_wish() || a.token < token_;
      if (a.token == token_) has_it[static_cast<size_t>(a.expert)] = true;
    }
    const auto slots = slots_of(mine.wanted);
    const auto is_free = [&](int64_t e) { return taken_E[static_cast<size_t>(e)] < slots; };
    m.is_beyond = !is_free(mine.expert);
    const auto size = E / why_.places.n_devices;
    std::optional<double> best;
    for (int64_t e = 0; e < E; ++e) {
      if (has_it[static_cast<size_t>(e)] || e / size != mine.expert / size) continue;
      if (!m.is_beyond && !is_free(e)) continue;
      best = std::max(best.value_or(-std::numeric_limits<double>::infinity()), score_X_[static_cast<size_t>(e)]);
    }
    if (best) m.margin = score_X_[static_cast<size_t>(mine.expert)] - *best;
  }

  bool scores_decide() const {
    return why_.rule.empty() || why_.turns_at_NE.defined() ||
           std::any_of(meetings_.begin(), meetings_.end(), [](const Meeting& m) { return m.margin.has_value(); });
  }

  static std::string number(double value) { return significant_text(value, 3); }

  // Why there was no place, and what would have to change.
  std::string queue_words(const Meeting& m) const {
    const auto there = text(m.asked, " asked, room for ", m.room);
    if (m.queue < 0) return there + "; a place would have to come free";
    const auto needed = m.queue - m.room + 1;
    const auto rise = m.short_of ? text(", or its score rise by ", number(*m.short_of)) : "";
    return text(there, ", ", order_words(*why_.places.order), ": it is number ", m.queue + 1, ", and ", needed,
                " of those before it would have to go elsewhere", rise);
  }

  std::string moved_words(const Meeting& m) const {
    auto out = text("moved here: ", m.moved_from, " was full");
    if (m.is_beyond)
      out += ", as all others: it is beyond the places of the one where it scores best";
    else if (!why_.places.elsewhere.empty())
      out += ", and " + why_.places.elsewhere;
    return out + (m.margin ? text("; another would take it if its score fell by ", number(*m.margin)) : "");
  }

  std::string kept_words(const Meeting& m) const {
    if (m.is_filled)
      return "fills a free slot: not asked for, but the expert had room" +
             (m.margin ? text("; another token would if its score fell by ", number(*m.margin)) : "");
    if (m.moved_from >= 0) return moved_words(m);
    if (m.is_beyond) return "chosen, beyond the places of the expert: no other had room, either";
    if (m.margin) return text("chosen; lost only if its ", why_.compares, " fell by ", number(*m.margin));
    if (!scores_decide()) return "chosen; no score of this token decides";
    return m.turns_at ? text("chosen, whatever its ", why_.compares) : "chosen; nothing rivals it";
  }

  std::string null_words(const Meeting& m) const {
    if (!m.margin) return "chosen: a null expert, no work is done";
    return text("chosen: a null expert, no work is done; lost only if its ", why_.compares, " fell by ",
                number(*m.margin));
  }

  std::string words(const Meeting& m) const {
    if (m.is_null && m.is_chosen()) return null_words(m);
    if (m.is_kept) return kept_words(m);
    if (m.is_dropped) return "asked for and dropped: " + queue_words(m);
    if (m.moved_to >= 0) return text("asked for and full: ", queue_words(m), "; moved to ", m.moved_to);
    if (!m.turns_at) return scores_decide() ? "not chosen" : "not chosen; no score of this token decides";
    if (*m.turns_at < m.compared.value_or(0)) return "not chosen here, though the router would: the layer takes fewer";
    if (!m.margin) return text("not chosen: closed to this token, whatever its ", why_.compares);
    const auto group = m.group >= 0 && !m.takes_group ? text(", which would take group ", m.group, ", too") : "";
    return text("not chosen: its ", why_.compares, " would have to rise by ", number(-*m.margin), group);
  }

  nlohmann::json row(int64_t expert) const {
    const auto& m = meetings_[static_cast<size_t>(expert)];
    nlohmann::json out = {{"expert", expert}, {"chosen", m.is_chosen()}};
    const auto add = [&](const char* key, const std::optional<double>& value) {
      if (value) out[key] = *value;
    };
    add("score", m.score), add("bias", m.bias), add("compared", m.compared), add("gate", m.gate);
    add("margin", m.margin);
    if (m.group >= 0) out["group"] = m.group, out["group_taken"] = m.takes_group;
    if (m.is_null) out["null"] = true;
    if (!m.is_null) out["asked_by"] = m.asked, out["kept_by"] = m.kept;
    if (m.is_chosen()) out["rank"] = m.rank;
    if (m.is_kept) out["slot"] = m.slot;
    if (m.queue >= 0) out["queue"] = m.queue;
    if (m.moved_to >= 0) out["moved_to"] = m.moved_to;
    if (m.moved_from >= 0) out["moved_from"] = m.moved_from;
    out["fate"] = words(m);
    return out;
  }

  const Decision& d_;
  int64_t token_;
  const route::Reasons& why_;
  std::vector<Assigned> all_;
  std::vector<double> score_X_;
  std::vector<Meeting> meetings_;
};

}  // namespace

nlohmann::json explain_token(const Decision& decision, int64_t token, const Tensor& score_NX, const Tensor& bias_X,
                             const route::Reasons& reasons) {
  require(token >= 0 && token < decision.n_tokens(), "explain: there is no token ", token, " among ",
          decision.n_tokens());
  return Explanation(decision, token, score_NX, bias_X, reasons).rows();
}

}  // namespace collegium
