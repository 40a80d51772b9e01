#include "collegium/train/meter.h"

#include <ATen/ATen.h>

#include <cmath>
#include <numeric>

namespace collegium::train {
namespace {

std::vector<double> shares(const std::vector<int64_t>& count_E) {
  const auto total = static_cast<double>(std::accumulate(count_E.begin(), count_E.end(), int64_t{0}));
  std::vector<double> out(count_E.size());
  for (size_t e = 0; e < out.size(); ++e) out[e] = total > 0 ? static_cast<double>(count_E[e]) / total : 0;
  return out;
}

void add_counts(std::vector<int64_t>& sum_E, const Tensor& count_E) {
  sum_E.resize(static_cast<size_t>(count_E.size(0)));
  const auto* data = count_E.const_data_ptr<int64_t>();
  for (size_t e = 0; e < sum_E.size(); ++e) sum_E[e] += data[e];
}

}  // namespace

std::string short_term_name(const std::string& name) {
  return name.substr(name.find(": ") + 2);
}

double normalised_entropy(const std::vector<double>& share_E) {
  if (share_E.size() < 2) return 1;
  double entropy = 0, total = 0;
  for (const auto share : share_E) {
    total += share;
    if (share > 0) entropy -= share * std::log(share);
  }
  return total > 0 ? entropy / std::log(static_cast<double>(share_E.size())) : 1;
}

double max_violation(const std::vector<double>& share_E) {
  const auto total = std::accumulate(share_E.begin(), share_E.end(), 0.0);
  if (share_E.empty() || total == 0) return 0;
  return *std::max_element(share_E.begin(), share_E.end()) * static_cast<double>(share_E.size()) / total - 1;
}

void Meter::add(const PassSums& sums) {
  sums_.nats += sums.nats, sums_.n_targets += sums.n_targets, sums_.n_tokens += sums.n_tokens;
  for (const auto& [name, count] : sums.counts) sums_.counts[name] += count;
}

void Meter::add(const PassSums& sums, const model::ModelOutput& output) {
  add(sums), ++passes_;
  for (const auto& term : output.losses) {
    auto& [sum, count] = aux_[short_term_name(term.name)];
    sum += term.raw, ++count;
  }
  layers_.resize(std::max(layers_.size(), output.decisions.size()));
  for (size_t l = 0; l < output.decisions.size(); ++l) {
    add_counts(layers_[l].kept, output.decisions[l].kept_E());
    add_counts(layers_[l].asked, output.decisions[l].asked_E());
    layers_[l].dropped += output.decisions[l].n_dropped();
  }
}

void Meter::merge(const Meter& other) {
  add(other.sums_), passes_ += other.passes_;
  for (const auto& [name, sum] : other.aux_) aux_[name].first += sum.first, aux_[name].second += sum.second;
  layers_.resize(std::max(layers_.size(), other.layers_.size()));
  for (size_t l = 0; l < other.layers_.size(); ++l) {
    const auto add = [](std::vector<int64_t>& to, const std::vector<int64_t>& from) {
      to.resize(std::max(to.size(), from.size()));
      for (size_t e = 0; e < from.size(); ++e) to[e] += from[e];
    };
    add(layers_[l].kept, other.layers_[l].kept);
    add(layers_[l].asked, other.layers_[l].asked);
    layers_[l].dropped += other.layers_[l].dropped;
  }
}

double Meter::count(const std::string& name) const {
  const auto found = sums_.counts.find(name);
  return found == sums_.counts.end() ? 0 : found->second;
}

nlohmann::json Meter::row() const {
  nlohmann::json out = {{"loss", loss()}};
  for (const auto& [name, sum] : aux_) out["aux"][name] = sum.first / static_cast<double>(sum.second);
  out["layers"] = nlohmann::json::array();
  for (const auto& layer : layers_) {
    const auto load = shares(layer.kept);
    const auto kept = static_cast<double>(std::accumulate(layer.kept.begin(), layer.kept.end(), int64_t{0}));
    const auto asked = static_cast<double>(std::accumulate(layer.asked.begin(), layer.asked.end(), int64_t{0}));
    out["layers"].push_back({{"load", load},
                             {"dropped", asked > 0 ? static_cast<double>(layer.dropped) / asked : 0.0},
                             {"entropy", normalised_entropy(load)},
                             {"max_violation", max_violation(load)},
                             {"per_token", sums_.n_tokens ? kept / static_cast<double>(sums_.n_tokens) : 0.0}});
  }
  return out;
}

std::vector<double> Meter::mean_load() const {
  std::vector<double> out;
  for (const auto& layer : layers_) {
    const auto load = shares(layer.kept);
    if (out.empty()) out.resize(load.size());
    if (load.size() != out.size()) continue;
    for (size_t e = 0; e < out.size(); ++e) out[e] += load[e];
  }
  const auto total = std::accumulate(out.begin(), out.end(), 0.0);
  if (total > 0)
    for (auto& share : out) share /= total;
  return out;
}

nlohmann::json Meter::state() const {
  nlohmann::json layers = nlohmann::json::array(), aux = nlohmann::json::object();
  for (const auto& l : layers_) layers.push_back({{"kept", l.kept}, {"asked", l.asked}, {"dropped", l.dropped}});
  for (const auto& [name, sum] : aux_) aux[name] = {sum.first, sum.second};
  return {{"nats", sums_.nats},
          {"n_targets", sums_.n_targets},
          {"n_tokens", sums_.n_tokens},
          {"counts", sums_.counts},
          {"passes", passes_},
          {"aux", aux},
          {"layers", layers}};
}

Meter Meter::from_state(const nlohmann::json& state) {
  Meter m;
  m.sums_ = {.nats = state.at("nats"),
             .n_targets = state.at("n_targets"),
             .n_tokens = state.at("n_tokens"),
             .counts = state.at("counts").get<std::map<std::string, double>>()};
  m.passes_ = state.at("passes");
  for (const auto& [name, sum] : state.at("aux").items()) m.aux_[name] = {sum[0].get<double>(), sum[1].get<int64_t>()};
  for (const auto& l : state.at("layers"))
    m.layers_.push_back({l.at("kept").get<std::vector<int64_t>>(), l.at("asked").get<std::vector<int64_t>>(),
                         l.at("dropped").get<int64_t>()});
  return m;
}

}  // namespace collegium::train
