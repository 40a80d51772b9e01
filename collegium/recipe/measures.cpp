#include "collegium/recipe/measures.h"

#include <algorithm>

#include "collegium/recipe/run.h"

namespace collegium {
namespace {

using enum Measure::Place;

constexpr Measure kMeasures[] = {
    {"valid_bpb", "held-out loss", "bits per byte", "lower", run},
    {"train_bpb", "training loss", "bits per byte", "lower", run},
    {"gap", "held-out minus training loss", "bits per byte", "lower", run},
    {"noisy_bpb", "held-out loss with replaced tokens", "bits per byte", "lower", row},
    {"tokens_per_second", "training speed", "tokens/s", "higher", run},
    {"parameters_active", "active parameters", "", "lower", facts},
    {"parameters_total", "parameters", "", "lower", facts},
    {"max_violation", "largest overload (MaxVio)", "share of even load", "lower", layers},
    {"utilisation", "experts in use", "share", "higher", layers},
    {"entropy", "evenness of the loads", "share of log E", "higher", layers, false},
    {"dropped", "dropped assignments", "share", "lower", layers},
    {"per_token", "experts per token", "experts", "", layers},
    {"score_entropy", "entropy of a token's scores", "nats", "", layers},
    {"margin", "margin to the runner-up", "score", "higher", layers, false},
    {"fluctuation", "first experts that changed", "share of tokens", "lower", layers},
    {"collapse", "variance between experts", "share", "lower", layers},
};

}  // namespace

std::span<const Measure> measures() {
  return kMeasures;
}

const Measure& find_measure(std::string_view name) {
  const auto found =
      std::find_if(std::begin(kMeasures), std::end(kMeasures), [&](const auto& m) { return m.name == name; });
  if (found != std::end(kMeasures)) return *found;
  std::vector<std::string> known;
  for (const auto& m : kMeasures) known.emplace_back(m.name);
  const auto near = nearest(name, known);
  fail(ErrorKind::usage, "unknown measure '", name, "'", near.empty() ? "" : text("; did you mean '", near, "'?"),
       " (known: ", join(known), ")");
}

double measure_of(const io::Path& folder, std::string_view name) {
  const auto& measure = find_measure(name);
  const std::string key(name);
  if (measure.place == run || measure.place == facts) {
    const auto known = run_facts(folder).at("run");
    const auto value = [&](const std::string& of) {
      if (!known.contains(of)) fail(ErrorKind::data, folder.filename().string(), ": there is no ", of, " yet");
      return known.at(of).get<double>();
    };
    return key == "gap" ? value("valid_bpb") - value("train_bpb") : value(key);
  }
  const auto rows = rows_of(folder / "metrics.jsonl");
  const auto last = std::find_if(rows.rbegin(), rows.rend(), [](const auto& r) { return r["kind"] == "valid"; });
  const auto missing = [&] { fail(ErrorKind::data, folder.filename().string(), ": ", key, " was not measured"); };
  if (last == rows.rend()) missing();
  if (measure.place == row) {
    if (!last->contains(key)) missing();
    return last->at(key).get<double>();
  }
  double sum = 0;
  int64_t n = 0;
  for (const auto& layer : last->at("layers"))
    if (layer.contains(key)) sum += layer.at(key).get<double>(), ++n;
  if (n == 0) missing();
  return sum / static_cast<double>(n);
}

}  // namespace collegium
