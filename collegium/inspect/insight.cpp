#include "collegium/inspect/insight.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>

#include "collegium/base/error.h"
#include "collegium/base/numbers.h"
#include "collegium/route/class_information.h"
#include "collegium/route/first_expert.h"

namespace collegium {
namespace {

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

// Tokens with a known id, by the expert that takes them first.
struct KnownTokens {
  std::map<int64_t, std::vector<int64_t>> id_E;  // id -> how often it went to each expert
  std::vector<std::pair<int64_t, int64_t>> id_and_expert;
};

KnownTokens known_tokens(const LayerSums& sums) {
  KnownTokens out;
  const auto E = static_cast<size_t>(sums.n_experts);
  for (size_t n = 0; n < sums.first_N.size(); ++n) {
    const auto id = sums.token_id_N[n], e = sums.first_N[n];
    if (id < 0 || e < 0) continue;
    ++out.id_E.try_emplace(id, E).first->second[static_cast<size_t>(e)];
    out.id_and_expert.emplace_back(id, e);
  }
  return out;
}

int64_t sum_of(const std::vector<int64_t>& v) {
  return std::accumulate(v.begin(), v.end(), int64_t{0});
}

void add_classes(nlohmann::json& out, const LayerSums& sums, const KnownTokens& known, const TokenText& text) {
  const auto E = static_cast<size_t>(sums.n_experts);
  std::map<std::string, std::vector<int64_t>> class_E;
  std::map<std::string, int64_t> number;
  std::map<int64_t, int64_t> class_of;
  for (const auto& [id, count_E] : known.id_E) {
    const std::string name(token_class(text(id)));
    class_of[id] = number.emplace(name, static_cast<int64_t>(number.size())).first->second;
    auto& sum_E = class_E.try_emplace(name, E).first->second;
    for (size_t e = 0; e < E; ++e) sum_E[e] += count_E[e];
  }
  auto by_class = known.id_and_expert;
  for (auto& [key, _] : by_class) key = class_of.at(key);
  out["class_information"] = information(by_class, sums.n_experts);
  std::vector<nlohmann::json> classes;
  for (const auto& [name, count_E] : class_E) {
    const auto total = sum_of(count_E);
    std::vector<double> share(E);
    for (size_t e = 0; e < E; ++e) share[e] = static_cast<double>(count_E[e]) / static_cast<double>(total);
    classes.push_back({{"name", name}, {"tokens", total}, {"share", share}});
  }
  std::stable_sort(classes.begin(), classes.end(),
                   [](const auto& a, const auto& b) { return a["tokens"] > b["tokens"]; });
  out["classes"] = classes;
}

void add_favourites(nlohmann::json& out, const LayerSums& sums, const KnownTokens& known, const TokenText& text) {
  const auto E = static_cast<size_t>(sums.n_experts);
  std::vector<double> share_E(E);
  for (const auto& [_, e] : known.id_and_expert)
    share_E[static_cast<size_t>(e)] += 1 / static_cast<double>(known.id_and_expert.size());
  out["favourites"] = nlohmann::json::array();
  for (size_t e = 0; e < E; ++e) {
    // Frequent and typical: count times the logarithm of how much more often than its share the expert takes it.
    std::vector<std::pair<double, int64_t>> rated;
    for (const auto& [id, count_E] : known.id_E) {
      if (count_E[e] < 2) continue;
      const auto lift = static_cast<double>(count_E[e]) / (static_cast<double>(sum_of(count_E)) * share_E[e]);
      if (lift > 1) rated.emplace_back(static_cast<double>(count_E[e]) * std::log(lift), id);
    }
    std::sort(rated.begin(), rated.end(), [](const auto& a, const auto& b) {
      return a.first != b.first ? a.first > b.first : a.second < b.second;
    });
    nlohmann::json texts = nlohmann::json::array();
    for (size_t i = 0; i < std::min<size_t>(8, rated.size()); ++i)
      texts.push_back(text ? text(rated[i].second) : "#" + std::to_string(rated[i].second));
    out["favourites"].push_back(texts);
  }
}

double share(int64_t part, int64_t of) {
  return of > 0 ? static_cast<double>(part) / static_cast<double>(of) : 0.0;
}

void add_pairs(nlohmann::json& out, const LayerSums& sums) {
  const auto E = static_cast<size_t>(sums.n_experts);
  auto partners = nlohmann::json::array(), pairs = nlohmann::json::array();
  for (size_t e = 0; e < E; ++e) {
    std::vector<double> with(E);
    size_t best = e;
    for (size_t f = 0; f < E; ++f) {
      with[f] = share(sums.pair_EE[e][f], sums.working_E[e]);
      if (f != e && with[f] > (best == e ? 0 : with[best])) best = f;
    }
    partners.push_back(best == e ? nlohmann::json() : nlohmann::json{{"expert", best}, {"share", with[best]}});
    if (sums.n_experts <= kMostPaired) pairs.push_back(with);
  }
  out["partners"] = partners;
  if (!pairs.empty()) out["pairs"] = pairs;
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

nlohmann::json routing_insight(const route::RoutingTrace& trace, const TokenText& text, const TraceNotes& notes) {
  std::map<int64_t, LayerSums> layers;
  for (const auto& record : trace.records) add(layers[record.layer], record);
  nlohmann::json out = nlohmann::json::array();
  const std::vector<int64_t>* before = nullptr;
  for (const auto& [layer, s] : layers) {
    const auto E = static_cast<size_t>(s.n_experts);
    const auto kept = std::accumulate(s.kept_E.begin(), s.kept_E.end(), int64_t{0});
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
    if (s.with_two > 0) add_pairs(row, s);
    if (const auto noted = notes.layers.find(layer); noted != notes.layers.end()) {
      if (!noted->second.name.empty()) row["name"] = noted->second.name;
      const auto choices = noted->second.choices * static_cast<double>(s.n_tokens);
      if (noted->second.null_experts > 0 && choices > 0)
        row["null_share"] = std::max(0.0, 1 - static_cast<double>(s.asked) / choices);
    }
    if (!s.margins.empty()) row["margin"] = margins_of(s.margins);
    if (before && before->size() == s.first_N.size()) {
      int64_t same = 0;
      for (size_t n = 0; n < before->size(); ++n) same += (*before)[n] == s.first_N[n];
      row["same_as_before"] = share(same, static_cast<int64_t>(before->size()));
    }
    if (const auto known = known_tokens(s); !known.id_E.empty()) {
      row["token_information"] = information(known.id_and_expert, s.n_experts);
      add_favourites(row, s, known, text);
      if (text) add_classes(row, s, known, text);
    }
    before = &s.first_N;
    out.push_back(std::move(row));
  }
  return out;
}

}  // namespace collegium
