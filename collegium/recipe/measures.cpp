#include "collegium/recipe/measures.h"

#include <algorithm>
#include <cmath>
#include <iomanip>
#include <numeric>
#include <sstream>

#include "collegium/recipe/run.h"

namespace collegium {
namespace {

using enum Measure::Place;

constexpr Measure kMeasures[] = {
    {"valid_bpb", "held-out loss", "bits per byte", "lower", run},
    {"best_bpb", "lowest held-out loss on the way", "bits per byte", "lower", run, false},
    {"train_bpb", "training loss", "bits per byte", "lower", run},
    {"gap", "held-out minus training loss", "bits per byte", "lower", run},
    {"noisy_bpb", "held-out loss with replaced tokens", "bits per byte", "lower", row},
    {"noise_rise", "what those tokens add to the held-out loss", "bits per byte", "lower", row, false},
    {"token_accuracy", "held-out tokens named right", "share", "higher", row},
    {"routing_noise_bpb", "held-out loss with noise on the routers' logits", "bits per byte", "lower", row},
    {"routing_noise_rise", "what that noise adds to the held-out loss", "bits per byte", "lower", row},
    {"rare_bpb", "held-out loss on rare tokens", "bits per byte", "lower", row},
    {"agreement", "agreement of two passes", "share of tokens", "higher", row, false},
    {"divergence", "divergence of two passes", "nats", "lower", row, false},
    {"chrf", "translation quality (chrF2)", "", "higher", answers},
    {"board_coverage", "board state told by single hidden units", "F1", "higher", probes},
    {"board_reconstruction", "board state told by precise hidden units", "F1", "higher", probes},
    {"valid_accuracy", "held-out images named right", "share", "higher", facts},
    {"loss", "held-out loss", "nats per token or image", "lower", row, false},
    {"deciding_share", "kept patches that decide the label", "share", "higher", row},
    {"deciding_weight", "weight on patches that decide the label", "share", "higher", row},
    {"class_information", "what the first expert tells of a token's digit, language or source", "share", "higher", row,
     false},
    {"found", "images whose deciding patch is kept", "share", "higher", row},
    {"tokens_per_second", "training speed", "tokens/s", "higher", run},
    {"layer_latency", "forward pass of a feed-forward layer", "µs per token", "lower", in_turn, false},
    {"training_memory", "memory of training", "bytes", "lower", in_turn, false},
    {"flops_per_token", "work of training", "FLOPs per token", "lower", facts, true, true},
    {"steps_to_baseline_loss", "steps to the baseline's last held-out loss", "share of the baseline's steps", "lower",
     pair, false},
    {"parameters_active", "active parameters", "", "lower", facts, true, true},
    {"cache_bytes_per_token", "keys and values kept", "bytes per token", "lower", facts, true, true},
    {"parameters_total", "parameters", "", "lower", facts, true, true},
    {"max_violation", "largest overload (MaxVio)", "share of even load", "lower", layers},
    {"training_violation", "largest overload in training", "share of even load", "lower", training_layers, false},
    {"utilisation", "experts in use", "share", "higher", layers},
    {"entropy", "evenness of the loads", "share of log E", "higher", layers, false},
    {"dropped", "dropped assignments", "share", "lower", layers},
    {"per_token", "experts per token", "experts", "", layers},
    {"score_entropy", "entropy of a token's scores", "nats", "", layers},
    {"margin", "margin to the runner-up", "score", "higher", layers, false},
    {"fluctuation", "first experts that changed", "share of tokens", "lower", layers},
    {"collapse", "variance between experts", "share", "lower", layers},
    {"active_units", "hidden units away from zero", "share", "", statistics, false},
    {"nonzero_units", "hidden units that are not zero", "share", "", statistics, false},
    {"effective_units", "hidden units that effectively work", "share", "", statistics, false},
};

constexpr std::string_view kAux = "aux:", kRise = ":rise", kAll = ":all";

// Mean of the term over a quarter of the rows that have it, at least one: the last quarter, or the first.
double quarter_mean(const std::vector<double>& values, bool is_last) {
  const auto n = std::max<size_t>(1, values.size() / 4);
  const auto begin = is_last ? values.size() - n : 0;
  double sum = 0;
  for (size_t i = begin; i < begin + n; ++i) sum += values[i];
  return sum / static_cast<double>(n);
}

std::optional<double> aux_value(const std::vector<nlohmann::json>& rows, std::string_view measure) {
  const auto term = aux_term_of(measure);
  std::vector<double> values;
  for (const auto& row : rows)
    if (row.contains(term)) values.push_back(row.at(term).get<double>());
  if (values.empty()) return {};
  if (measure.ends_with(kAll))
    return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
  const auto last = quarter_mean(values, true);
  return measure.ends_with(kRise) ? last - quarter_mean(values, false) : last;
}

}  // namespace

std::string aux_term_of(std::string_view measure) {
  if (!measure.starts_with(kAux)) return "";
  measure.remove_prefix(kAux.size());
  for (const auto suffix : {kRise, kAll})
    if (measure.ends_with(suffix)) {
      measure.remove_suffix(suffix.size());
      break;
    }
  return std::string(measure);
}

std::span<const Measure> measures() {
  return kMeasures;
}

Measure find_measure(std::string_view name) {
  if (!aux_term_of(name).empty()) return {name, name, "", "", aux, false};
  const auto found =
      std::find_if(std::begin(kMeasures), std::end(kMeasures), [&](const auto& m) { return m.name == name; });
  if (found != std::end(kMeasures)) return *found;
  std::vector<std::string> known;
  for (const auto& m : kMeasures) known.emplace_back(m.name);
  const auto near = nearest(name, known);
  fail(ErrorKind::usage, "unknown measure '", name, "'", near.empty() ? "" : text("; did you mean '", near, "'?"),
       " (known: ", join(known), ", or aux:TERM for an auxiliary term of training)");
}

MeasuredRun::MeasuredRun(const io::Path& folder)
    : id_(folder.filename().string()), facts_(run_facts(folder).at("run")) {
  const auto rows = rows_of(folder / "metrics.jsonl");
  const auto last = [&](std::string_view kind) {
    const auto row = std::find_if(rows.rbegin(), rows.rend(), [&](const auto& r) { return r["kind"] == kind; });
    return row != rows.rend() ? *row : nlohmann::json::object();
  };
  last_valid_ = last("valid"), last_train_ = last("train");
  for (const auto& r : rows) {
    if (r["kind"] != "valid") continue;
    const auto step = r["step"].get<double>();
    if (r.contains("bpb")) best_bpb_ = std::min(best_bpb_.value_or(r["bpb"].get<double>()), r["bpb"].get<double>());
    if (r.contains("bpb") || r.contains("loss"))
      step_loss_.emplace_back(step, r[r.contains("bpb") ? "bpb" : "loss"].get<double>());
  }
  for (const auto& row : rows)
    if (row["kind"] == "train" && row.contains("aux")) aux_.push_back(row["aux"]);
  translation_ = read_translation(folder), probes_ = read_probes(folder);
}

std::optional<double> MeasuredRun::find(std::string_view name) const {
  const auto measure = find_measure(name);
  const auto in = [](const nlohmann::json& object, const std::string& key) {
    return object.contains(key) ? std::optional(object.at(key).get<double>()) : std::nullopt;
  };
  const std::string key(name);
  if (key == "gap") {
    const auto valid = in(facts_, "valid_bpb"), train = in(facts_, "train_bpb");
    return valid && train ? std::optional(*valid - *train) : std::nullopt;
  }
  if (measure.place == pair || measure.place == in_turn) return {};
  if (key == "best_bpb") return best_bpb_;
  if (key == "noise_rise") {
    const auto noisy = in(last_valid_, "noisy_bpb"), plain = in(last_valid_, "bpb");
    return noisy && plain ? std::optional(*noisy - *plain) : std::nullopt;
  }
  if (measure.place == run || measure.place == facts) return in(facts_, key);
  if (measure.place == row) return in(last_valid_, key);
  if (measure.place == answers) return in(translation_, key);
  if (measure.place == probes) return in(probes_, key);
  if (measure.place == aux) return aux_value(aux_, name);
  if (measure.place == statistics) {
    const auto values = last_valid_.value("statistics", nlohmann::json::object()).value(key, std::vector<double>());
    if (values.empty()) return {};
    return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
  }
  const auto layers = by_layer(name);
  if (layers.empty()) return {};
  return std::accumulate(layers.begin(), layers.end(), 0.0) / static_cast<double>(layers.size());
}

std::vector<double> MeasuredRun::by_layer(std::string_view name) const {
  const auto place = find_measure(name).place;
  if (place != layers && place != training_layers) return {};
  const bool is_training = place == training_layers;
  const std::string key(is_training ? "max_violation" : name);
  std::vector<double> out;
  for (const auto& layer : (is_training ? last_train_ : last_valid_).value("layers", nlohmann::json::array()))
    if (layer.contains(key)) out.push_back(layer.at(key).get<double>());
  return out;
}

double MeasuredRun::of(std::string_view name) const {
  const auto value = find(name);
  if (!value) fail(ErrorKind::data, id_, ": ", name, " was not measured");
  return *value;
}

double MeasuredRun::steps_to_loss_of(const MeasuredRun& baseline) const {
  for (const auto* run : {this, &baseline})
    if (run->step_loss_.empty()) fail(ErrorKind::data, run->id_, ": the held-out loss was not measured");
  const auto [all, wanted] = baseline.step_loss_.back();
  for (size_t i = 0; i < step_loss_.size(); ++i) {
    const auto [step, loss] = step_loss_[i];
    if (loss > wanted) continue;
    if (i == 0) return step / all;
    const auto [step_before, loss_before] = step_loss_[i - 1];
    return (step_before + (step - step_before) * (loss_before - wanted) / (loss_before - loss)) / all;
  }
  return step_loss_.back().first / all;
}

nlohmann::json Spread::json() const {
  return {{"mean", mean}, {"min", min}, {"max", max}, {"std", std}, {"n", n}};
}

std::optional<Spread> spread_of(const std::vector<MeasuredRun>& runs, std::string_view measure) {
  std::vector<double> values;
  for (const auto& one : runs)
    if (const auto value = one.find(measure)) values.push_back(*value);
  if (values.empty()) return {};
  return spread_of(values);
}

Spread spread_of(const std::vector<double>& values) {
  Spread s{.n = values.size()};
  s.min = *std::min_element(values.begin(), values.end()), s.max = *std::max_element(values.begin(), values.end());
  for (const auto v : values) s.mean += v / static_cast<double>(s.n);
  for (const auto v : values) s.std += (v - s.mean) * (v - s.mean);
  s.std = s.n > 1 ? std::sqrt(s.std / static_cast<double>(s.n - 1)) : 0;
  return s;
}

double median_of(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

std::string paper_name(int64_t paper) {
  std::ostringstream out;
  if (paper > 0) out << "P" << std::setw(3) << std::setfill('0') << paper;
  return out.str();
}

}  // namespace collegium
