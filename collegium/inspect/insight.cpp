#include "collegium/inspect/insight.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <iomanip>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <sstream>

#include "collegium/base/error.h"
#include "collegium/route/class_information.h"
#include "collegium/route/first_expert.h"

namespace collegium {
namespace {

using route::Decision;

std::vector<double> reals(const Tensor& t) {
  const auto c = t.detach().to(at::kCPU, at::kDouble).contiguous();
  return {c.const_data_ptr<double>(), c.const_data_ptr<double>() + c.numel()};
}
std::vector<int64_t> ints(const Tensor& t) {
  const auto c = t.to(at::kCPU, at::kLong).contiguous();
  return {c.const_data_ptr<int64_t>(), c.const_data_ptr<int64_t>() + c.numel()};
}

// What the expert tells of the key; 0 where all keys are the same.
double information(const std::vector<std::pair<int64_t, int64_t>>& key_and_expert, int64_t n_experts) {
  std::map<int64_t, int64_t> row_of;
  std::vector<int64_t> cell;
  for (const auto& [key, expert] : key_and_expert)
    cell.push_back(row_of.try_emplace(key, static_cast<int64_t>(row_of.size())).first->second * n_experts + expert);
  const auto C = static_cast<int64_t>(row_of.size());
  const auto count_CE = at::bincount(at::tensor(cell, at::kLong), {}, C * n_experts).view({C, n_experts});
  return route::class_information(count_CE).value_or(0);
}

struct LayerSums {
  int64_t n_tokens = 0, n_experts = 0, asked = 0, dropped = 0, moved = 0, with_two = 0;
  std::vector<int64_t> kept_E, working_E;
  std::vector<std::vector<int64_t>> pair_EE;
  std::vector<double> margins;
  std::vector<int64_t> first_N, token_id_N;  // of all passes, one after the other; -1 = none or unknown
};

void add(LayerSums& sums, const route::TraceRecord& record) {
  const auto& d = record.decision;
  const auto E = static_cast<size_t>(d.n_experts());
  if (sums.kept_E.empty()) {
    sums.n_experts = d.n_experts();
    sums.kept_E.resize(E), sums.working_E.resize(E), sums.pair_EE.assign(E, std::vector<int64_t>(E));
  }
  if (sums.n_experts != d.n_experts())
    fail(ErrorKind::data, "trace: layer ", record.layer, " changes its number of experts");
  sums.n_tokens += d.n_tokens(), sums.asked += d.n_asked(), sums.dropped += d.n_dropped();
  const auto token = ints(d.token_R()), expert = ints(d.expert_R()), wanted = ints(d.wanted_R()),
             rank = ints(d.rank_R());
  const auto margin = reals(d.margin_R());
  std::vector<std::vector<int64_t>> experts_N(static_cast<size_t>(d.n_tokens()));
  for (size_t r = 0; r < token.size(); ++r) {
    ++sums.kept_E[static_cast<size_t>(expert[r])], sums.moved += wanted[r] != expert[r];
    experts_N[static_cast<size_t>(token[r])].push_back(expert[r]);
    if (rank[r] == 0 && std::isfinite(margin[r])) sums.margins.push_back(margin[r]);
  }
  for (const auto& experts : experts_N) {
    sums.with_two += experts.size() > 1;
    for (const auto e : experts) {
      ++sums.working_E[static_cast<size_t>(e)];
      for (const auto f : experts) ++sums.pair_EE[static_cast<size_t>(e)][static_cast<size_t>(f)];
    }
  }
  const auto first = ints(route::first_expert(d));
  sums.first_N.insert(sums.first_N.end(), first.begin(), first.end());
  const auto ids = record.token_id_N.defined() ? ints(record.token_id_N) : std::vector<int64_t>(first.size(), -1);
  sums.token_id_N.insert(sums.token_id_N.end(), ids.begin(), ids.end());
}

nlohmann::json margins_of(std::vector<double> margins) {
  std::sort(margins.begin(), margins.end());
  const auto at = [&](double q) { return margins[static_cast<size_t>(q * static_cast<double>(margins.size() - 1))]; };
  const auto close = std::lower_bound(margins.begin(), margins.end(), at(.5) / 10) - margins.begin();
  return {{"p10", at(.1)},
          {"p50", at(.5)},
          {"p90", at(.9)},
          {"close", static_cast<double>(close) / static_cast<double>(margins.size())}};
}

void add_classes(nlohmann::json& out, const LayerSums& sums, const TokenText& text) {
  std::map<std::string, std::vector<int64_t>> class_E;
  std::map<std::string, int64_t> number;
  std::map<int64_t, std::pair<std::string, int64_t>> known;  // id -> text, class number
  std::map<int64_t, std::vector<int64_t>> id_E;
  std::vector<std::pair<int64_t, int64_t>> by_class, by_id;
  const auto E = static_cast<size_t>(sums.n_experts);
  for (size_t n = 0; n < sums.first_N.size(); ++n) {
    const auto id = sums.token_id_N[n], e = sums.first_N[n];
    if (id < 0 || e < 0) continue;
    auto found = known.find(id);
    if (found == known.end()) {
      const auto words = text(id);
      const std::string name(token_class(words));
      const auto number_of = number.emplace(name, static_cast<int64_t>(number.size())).first->second;
      found = known.emplace(id, std::pair{words, number_of}).first;
      class_E.emplace(name, std::vector<int64_t>(E));
      id_E.emplace(id, std::vector<int64_t>(E));
    }
    ++class_E[std::string(token_class(found->second.first))][static_cast<size_t>(e)];
    ++id_E[id][static_cast<size_t>(e)];
    by_class.emplace_back(found->second.second, e), by_id.emplace_back(id, e);
  }
  if (by_id.empty()) return;
  out["class_information"] = information(by_class, sums.n_experts);
  out["token_information"] = information(by_id, sums.n_experts);
  std::vector<nlohmann::json> classes;
  for (const auto& [name, count_E] : class_E) {
    const auto total = std::accumulate(count_E.begin(), count_E.end(), int64_t{0});
    std::vector<double> share(E);
    for (size_t e = 0; e < E; ++e) share[e] = static_cast<double>(count_E[e]) / static_cast<double>(total);
    classes.push_back({{"name", name}, {"tokens", total}, {"share", share}});
  }
  std::stable_sort(classes.begin(), classes.end(),
                   [](const auto& a, const auto& b) { return a["tokens"] > b["tokens"]; });
  out["classes"] = classes;

  std::vector<double> share_E(E);
  for (const auto& [_, e] : by_id) share_E[static_cast<size_t>(e)] += 1 / static_cast<double>(by_id.size());
  out["favourites"] = nlohmann::json::array();
  for (size_t e = 0; e < E; ++e) {
    // Frequent and typical: count times the logarithm of how much more often than its share the expert takes it.
    std::vector<std::pair<double, int64_t>> rated;
    for (const auto& [id, count_E] : id_E) {
      const auto total = std::accumulate(count_E.begin(), count_E.end(), int64_t{0});
      const auto lift = static_cast<double>(count_E[e]) / (static_cast<double>(total) * share_E[e]);
      if (count_E[e] >= 2 && lift > 1) rated.emplace_back(static_cast<double>(count_E[e]) * std::log(lift), id);
    }
    std::sort(rated.begin(), rated.end(), [](const auto& a, const auto& b) {
      return a.first != b.first ? a.first > b.first : a.second < b.second;
    });
    nlohmann::json texts = nlohmann::json::array();
    for (size_t i = 0; i < std::min<size_t>(8, rated.size()); ++i) texts.push_back(known.at(rated[i].second).first);
    out["favourites"].push_back(texts);
  }
}

std::string number_text(double value) {
  std::ostringstream out;
  out << std::setprecision(3) << value;
  return out.str();
}

}  // namespace

std::string_view token_class(std::string_view token) {
  if (token.empty()) return "other";
  if (token.find('\n') != std::string_view::npos) return "line break";
  const bool has_space = token.front() == ' ';
  const auto word = token.substr(std::min(token.find_first_not_of(" \t"), token.size()));
  if (word.empty()) return "space";
  const auto c = static_cast<unsigned char>(word.front());
  if (c >= '0' && c <= '9') return "number";
  if (c >= 'A' && c <= 'Z') return "capital";
  if ((c >= 'a' && c <= 'z') || (c == '\'' && word.size() > 1)) return has_space ? "word start" : "word part";
  if (c >= 0xC3 && c < 0xE2) return has_space ? "word start" : "word part";  // letters beyond ASCII, mostly
  if (c < 0x80) return "punctuation";
  return "other";
}

nlohmann::json routing_insight(const route::RoutingTrace& trace, const TokenText& text) {
  std::map<int64_t, LayerSums> layers;
  for (const auto& record : trace.records) add(layers[record.layer], record);
  nlohmann::json out = nlohmann::json::array();
  const std::vector<int64_t>* before = nullptr;
  for (const auto& [layer, s] : layers) {
    const auto E = static_cast<size_t>(s.n_experts);
    const auto kept = std::accumulate(s.kept_E.begin(), s.kept_E.end(), int64_t{0});
    const auto share = [](int64_t part, int64_t of) {
      return of > 0 ? static_cast<double>(part) / static_cast<double>(of) : 0.0;
    };
    std::vector<double> load(E);
    double entropy = 0, most = 0;
    for (size_t e = 0; e < E; ++e) {
      load[e] = share(s.kept_E[e], kept), most = std::max(most, load[e]);
      if (load[e] > 0) entropy -= load[e] * std::log(load[e]);
    }
    nlohmann::json row = {{"layer", layer},
                          {"n_tokens", s.n_tokens},
                          {"n_experts", s.n_experts},
                          {"per_token", share(kept, s.n_tokens)},
                          {"dropped", share(s.dropped, s.asked)},
                          {"moved", share(s.moved, kept)},
                          {"load", load},
                          {"entropy", E > 1 && kept > 0 ? entropy / std::log(static_cast<double>(E)) : 1.0},
                          {"max_violation", kept > 0 ? most * static_cast<double>(E) - 1 : 0.0}};
    if (s.with_two > 0) {
      row["pairs"] = nlohmann::json::array();
      for (size_t e = 0; e < E; ++e) {
        std::vector<double> with(E);
        for (size_t f = 0; f < E; ++f) with[f] = share(s.pair_EE[e][f], s.working_E[e]);
        row["pairs"].push_back(with);
      }
    }
    if (!s.margins.empty()) row["margin"] = margins_of(s.margins);
    if (before && before->size() == s.first_N.size()) {
      int64_t same = 0;
      for (size_t n = 0; n < before->size(); ++n) same += (*before)[n] == s.first_N[n];
      row["same_as_before"] = share(same, static_cast<int64_t>(before->size()));
    }
    if (text) add_classes(row, s, text);
    before = &s.first_N;
    out.push_back(std::move(row));
  }
  return out;
}

namespace {

// What happened between one token and one expert.
struct Meeting {
  std::optional<double> score, bias, compared, turns_at, gate, margin;
  int64_t rank = -1, slot = -1, group = -1, moved_to = -1, asked = 0, kept = 0;
  bool is_kept = false, is_dropped = false, is_filled = false, is_moved = false, takes_group = false;
  bool is_chosen() const { return rank >= 0; }
};

std::vector<Meeting> meetings(const Decision& d, int64_t token, const Tensor& score_NE, const Tensor& bias_E,
                              const route::Reasons& why) {
  std::vector<Meeting> out(static_cast<size_t>(d.n_experts()));
  const auto fill = [&](const Tensor& t_X, auto&& set) {
    if (!t_X.defined()) return;
    const auto row = reals(t_X);
    for (size_t e = 0; e < std::min(out.size(), row.size()); ++e) set(out[e], row[e]);
  };
  const auto row_of = [&](const Tensor& t_NE) { return t_NE.defined() ? t_NE[token] : Tensor(); };
  fill(row_of(score_NE), [](Meeting& m, double v) { m.score = v; });
  fill(bias_E, [](Meeting& m, double v) { m.bias = v; });
  fill(row_of(why.compared_NE), [](Meeting& m, double v) { m.compared = v; });
  fill(row_of(why.turns_at_NE), [](Meeting& m, double v) { m.turns_at = v; });
  fill(row_of(why.group_taken_NE), [](Meeting& m, double v) { m.takes_group = v > 0; });
  for (size_t e = 0; e < std::min(out.size(), why.group_E.size()); ++e) out[e].group = why.group_E[e];
  const auto asked_E = ints(d.asked_E()), kept_E = ints(d.kept_E());
  for (size_t e = 0; e < out.size(); ++e) {
    auto& m = out[e];
    m.asked = asked_E[e], m.kept = kept_E[e];
    if (!m.compared && m.score) m.compared = *m.score + m.bias.value_or(0);
  }
  for (const auto r : ints(d.token_R().eq(token).nonzero().flatten())) {
    const auto expert = d.expert_R()[r].item<int64_t>(), wanted = d.wanted_R()[r].item<int64_t>();
    auto& m = out[static_cast<size_t>(expert)];
    m.is_kept = true, m.rank = d.rank_R()[r].item<int64_t>(), m.slot = d.slot_R()[r].item<int64_t>();
    m.gate = d.gate_R()[r].item<double>();
    m.is_filled = wanted < 0, m.is_moved = wanted >= 0 && wanted != expert;
    if (m.is_moved) out[static_cast<size_t>(wanted)].moved_to = expert;
    if (const auto margin = d.margin_R()[r].item<double>(); std::isfinite(margin)) m.margin = margin;
  }
  for (const auto q : ints(d.dropped().token_Q.eq(token).nonzero().flatten())) {
    auto& m = out[static_cast<size_t>(d.dropped().expert_Q[q].item<int64_t>())];
    m.is_dropped = true, m.rank = d.dropped().rank_Q[q].item<int64_t>();
  }
  for (auto& m : out)
    if (!m.is_chosen() && m.moved_to < 0 && m.compared && m.turns_at && std::isfinite(*m.turns_at))
      m.margin = *m.compared - *m.turns_at;
  return out;
}

std::string fate_of(const Meeting& m, const route::Reasons& why) {
  if (m.is_filled) return "fills a free slot: not asked for, but the expert had room";
  if (m.is_moved) return "the wanted expert was full, this one had room";
  if (m.is_dropped)
    return text("asked for and dropped: ", m.asked, " asked, room for ", m.kept, "; a place would have to come free");
  if (m.is_kept && !m.turns_at && !why.rule.empty()) return "chosen; no score of this token decides";
  if (m.is_kept && m.margin)
    return text("chosen; lost only if its ", why.compares, " fell by ", number_text(*m.margin));
  if (m.is_kept) return "chosen; nothing rivals it";
  if (m.moved_to >= 0)
    return text("asked for and full: ", m.asked, " asked, room for ", m.kept, "; moved to ", m.moved_to);
  if (!m.turns_at) return why.rule.empty() ? "not chosen" : "not chosen; no score of this token decides";
  if (*m.turns_at < m.compared.value_or(0)) return "not chosen here, though the router would: the layer takes fewer";
  if (!m.margin) return text("not chosen: closed to this token, whatever its ", why.compares);
  const auto group = m.group >= 0 && !m.takes_group ? text(", which would take group ", m.group, ", too") : "";
  return text("not chosen: its ", why.compares, " would have to rise by ", number_text(-*m.margin), group);
}

}  // namespace

nlohmann::json explain_token(const Decision& d, int64_t token, const Tensor& score_NE, const Tensor& bias_E,
                             const route::Reasons& reasons) {
  require(token >= 0 && token < d.n_tokens(), "explain: there is no token ", token, " among ", d.n_tokens());
  const auto all = meetings(d, token, score_NE, bias_E, reasons);
  std::vector<size_t> order(all.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    if (all[a].is_chosen() != all[b].is_chosen()) return all[a].is_chosen();
    return all[a].compared.value_or(0) > all[b].compared.value_or(0);
  });
  nlohmann::json out = nlohmann::json::array();
  for (const auto e : order) {
    const auto& m = all[e];
    nlohmann::json row = {{"expert", e}, {"chosen", m.is_chosen()}, {"asked_by", m.asked}, {"kept_by", m.kept}};
    const auto add = [&](const char* key, const std::optional<double>& value) {
      if (value) row[key] = *value;
    };
    add("score", m.score), add("bias", m.bias), add("compared", m.compared), add("gate", m.gate);
    add("margin", m.margin);
    if (m.group >= 0) row["group"] = m.group, row["group_taken"] = m.takes_group;
    if (m.is_chosen()) row["rank"] = m.rank;
    if (m.is_kept) row["slot"] = m.slot;
    row["fate"] = fate_of(m, reasons);
    out.push_back(std::move(row));
  }
  return out;
}

}  // namespace collegium
