#include "collegium/recipe/evidence.h"

#include <algorithm>
#include <cmath>
#include <sstream>

#include "collegium/base/text_table.h"
#include "collegium/io/json.h"
#include "collegium/recipe/expectations.h"
#include "collegium/recipe/in_turn.h"
#include "collegium/recipe/machine.h"
#include "collegium/recipe/measures.h"
#include "collegium/recipe/reuse.h"
#include "collegium/recipe/toml.h"

namespace collegium {
namespace {

double mean_of(const std::vector<double>& values) {
  double sum = 0;
  for (const auto v : values) sum += v;
  return values.empty() ? 0 : sum / static_cast<double>(values.size());
}

std::string with_spread(const nlohmann::json& values) {
  if (values.empty()) return "–";
  const auto list = values.get<std::vector<double>>();
  const auto [low, high] = std::minmax_element(list.begin(), list.end());
  const auto number = [](double v) { return significant_text(v, 5); };
  return number(mean_of(list)) + (list.size() > 1 ? text(" (", number(*low), " to ", number(*high), ")") : "");
}

std::string joined(const std::vector<double>& values) {
  std::vector<std::string> out;
  for (const auto v : values) out.push_back(significant_text(v, 3));
  return join(out);
}

}  // namespace

std::string_view verdict_text(Verdict verdict) {
  switch (verdict) {
    case Verdict::held:
      return "held";
    case Verdict::not_shown:
      return "not shown at this scale";
    case Verdict::failed:
      return "failed";
  }
  return "";
}

std::string margin_text(const Expectation& e) {
  if (!is_comparison(e) || e.value == 0) return "";
  const auto size = e.relative ? text(std::abs(e.value) * 100, " %") : text(std::abs(e.value));
  return text(e.value < 0 ? ", may be worse by " : ", must be better by ", size);
}

Verdict judge(const Expectation& e, const std::vector<double>& ours, const std::vector<double>& baseline) {
  ensure(!ours.empty(), "an expectation is judged over at least one seed");
  const auto all = [&](auto&& good) { return std::all_of(ours.begin(), ours.end(), good); };
  switch (e.relation) {
    case Relation::equals:
      return all([&](double v) { return std::abs(v - e.value) <= e.tolerance; }) ? Verdict::held : Verdict::failed;
    case Relation::at_most:
      return all([&](double v) { return v <= e.value; }) ? Verdict::held : Verdict::failed;
    case Relation::at_least:
      return all([&](double v) { return v >= e.value; }) ? Verdict::held : Verdict::failed;
    case Relation::below_baseline:
    case Relation::above_baseline:
      break;
  }
  require(ours.size() == baseline.size(), subject_of(e), "a comparison needs a [baseline] in the recipe");
  size_t better = 0, worse = 0;
  for (size_t i = 0; i < ours.size(); ++i) {
    const auto gain = e.relation == Relation::below_baseline ? baseline[i] - ours[i] : ours[i] - baseline[i];
    const auto margin = e.relative ? e.value * std::abs(baseline[i]) : e.value;
    better += gain > margin, worse += gain < std::min(margin, 0.0);
  }
  return better == ours.size() ? Verdict::held : worse == ours.size() ? Verdict::failed : Verdict::not_shown;
}

std::vector<io::Path> runs_of(const Recipe& recipe, const RunSetting& setting, Reuse reuse) {
  std::vector<io::Path> out;
  for (const auto seed : recipe.seeds)
    out.push_back(finished_or_trained(recipe.run, seed, recipe.name, recipe.path, setting, reuse));
  return out;
}

namespace {

std::vector<double> pairs_of(const std::vector<MeasuredRun>& ours, const std::vector<MeasuredRun>& baseline) {
  std::vector<double> out;
  for (size_t i = 0; i < ours.size(); ++i) out.push_back(ours[i].steps_to_loss_of(baseline[i]));
  return out;
}

// What depends on the data, such as classes of documents, is only known to be missing now.
std::vector<double> measured_of(const std::vector<MeasuredRun>& runs, const Expectation& e) try {
  std::vector<double> out;
  for (const auto& run : runs) out.push_back(run.of(e.measure));
  return out;
} catch (const Error& error) {
  throw Error(error.kind(), text(subject_of(e), error.what()), error.hint());
}

// Of each layer with experts, the mean over the runs.
std::vector<double> mean_by_layer(const std::vector<MeasuredRun>& runs, std::string_view measure) {
  std::vector<double> out;
  for (const auto& run : runs) {
    const auto layers = run.by_layer(measure);
    out.resize(layers.size());
    for (size_t i = 0; i < layers.size(); ++i) out[i] += layers[i] / static_cast<double>(runs.size());
  }
  return out;
}

}  // namespace

Evidence gather_evidence(const Recipe& recipe, const RunSetting& setting, Reuse reuse) {
  Evidence out{.recipe = recipe};
  const auto start = setting.clock();
  // Ours and the baseline take turns, so that a busy moment of the machine meets both.
  for (const auto seed : recipe.seeds) {
    out.ours.push_back(finished_or_trained(recipe.run, seed, recipe.name, recipe.path, setting, reuse));
    if (recipe.has_baseline)
      out.baseline.push_back(finished_or_trained(recipe.baseline, seed, recipe.name + "-" + recipe.baseline_name,
                                                 recipe.path, setting, reuse));
  }
  const std::vector<MeasuredRun> ours(out.ours.begin(), out.ours.end());
  const std::vector<MeasuredRun> baseline(out.baseline.begin(), out.baseline.end());
  for (const auto& e : recipe.expectations) {
    JudgedExpectation judged{.expectation = e, .in_turn = is_measured_in_turn(e.measure)};
    if (judged.in_turn) {
      auto measured =
          measure_in_turn(e.measure, out.ours, is_comparison(e) ? out.baseline : std::vector<io::Path>{}, setting);
      judged.ours = std::move(measured.ours), judged.baseline = std::move(measured.baseline);
    } else if (find_measure(e.measure).place == Measure::Place::pair) {
      judged.ours = pairs_of(ours, baseline);
    } else {
      judged.ours = measured_of(ours, e);
    }
    if (is_comparison(e) && !judged.in_turn) judged.baseline = measured_of(baseline, e);
    if (e.measure == "per_token") judged.by_layer = mean_by_layer(ours, e.measure);
    judged.verdict = judge(e, judged.ours, judged.baseline);
    out.judged.push_back(std::move(judged));
  }
  out.seconds = setting.clock() - start;
  return out;
}

namespace {

// What made the runs, each version once, in the order of the runs.
struct Origin {
  std::vector<std::string> commits, codes, machines, torch;
};

Origin origin_of(const Evidence& evidence, const RunSetting& setting) {
  Origin out;
  io::RunStore store(setting.runs_root);
  const auto add = [](std::vector<std::string>& to, const std::string& what) {
    if (std::find(to.begin(), to.end(), what) == to.end()) to.push_back(what);
  };
  auto folders = evidence.ours;
  folders.insert(folders.end(), evidence.baseline.begin(), evidence.baseline.end());
  for (const auto& folder : folders) {
    const auto path = folder / "env.json";
    const auto env = io::parse_json(io::read_text(io::real_file_system(), path), path.string());
    add(out.commits, store.find(folder.string()).git_commit);
    add(out.codes, env.value("code", ""));
    add(out.machines, machine_class(env));
    add(out.torch, env.value("torch", "?"));
  }
  const bool all_known = std::find(out.codes.begin(), out.codes.end(), "") == out.codes.end();
  if (!all_known) out.codes.clear();
  return out;
}

}  // namespace

nlohmann::json evidence_json(const Evidence& evidence, const RunSetting& setting) {
  const auto& r = evidence.recipe;
  const auto origin = origin_of(evidence, setting);
  nlohmann::json out = {{"recipe", r.name},
                        {"paper", r.paper},
                        {"claim", r.claim},
                        {"seeds", r.seeds},
                        {"baseline", r.has_baseline ? r.baseline_name : ""},
                        {"commit", join(origin.commits)},
                        {"code", join(origin.codes)},
                        {"date", setting.now()},
                        {"seconds", std::round(evidence.seconds)},
                        {"machine", join(origin.machines, "; ")},
                        {"torch", join(origin.torch)},
                        {"expectations", nlohmann::json::array()}};
  for (const auto& j : evidence.judged) {
    out["expectations"].push_back(
        {{"measure", j.expectation.measure},
         {"relation", enum_names(j.expectation.relation)[static_cast<size_t>(j.expectation.relation)]},
         {"value", j.expectation.value},
         {"ours", j.ours},
         {"baseline", j.baseline},
         {"verdict", verdict_text(j.verdict)},
         {"paper_says", j.expectation.paper_says}});
    if (const auto margin = margin_text(j.expectation); !margin.empty()) out["expectations"].back()["margin"] = margin;
    if (!j.by_layer.empty()) out["expectations"].back()["by_layer"] = j.by_layer;
    if (j.in_turn)
      out["expectations"].back()["measured"] = {{"commit", setting.git_commit},
                                                {"machine", machine_class(environment_on(setting.device))}};
  }
  return out;
}

std::string short_commits(std::string_view commits) {
  std::vector<std::string> out;
  for (size_t begin = 0; begin <= commits.size();) {
    const auto end = std::min(commits.find(", ", begin), commits.size());
    out.push_back(io::short_commit(commits.substr(begin, end - begin)));
    begin = end + 2;
  }
  return join(out);
}

std::string evidence_table(const std::vector<nlohmann::json>& results) {
  std::ostringstream out;
  out << "| recipe | paper | measure | ours | baseline | seeds | verdict | the paper says | commit | machine |\n"
      << "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n";
  for (const auto& r : results)
    for (const auto& e : r["expectations"]) {
      const auto baseline = r["baseline"].get<std::string>();
      out << "| " << r["recipe"].get<std::string>() << " | " << paper_name(r["paper"].get<int64_t>()) << " | "
          << e["measure"].get<std::string>() << " | " << with_spread(e["ours"])
          << (e.contains("by_layer") ? text("; by layer: ", joined(e["by_layer"])) : "") << " | "
          << (e["baseline"].empty() ? text(e["relation"].get<std::string>(), " ", e["value"].get<double>())
                                    : text(baseline, ": ", with_spread(e["baseline"]), e.value("margin", "")))
          << " | " << r["seeds"].size() << " | " << e["verdict"].get<std::string>() << " | "
          << e["paper_says"].get<std::string>() << " | ";
      const auto& from = e.contains("measured") ? e["measured"] : r;
      out << short_commits(from["commit"].get<std::string>()) << " | " << from["machine"].get<std::string>() << " |\n";
    }
  return out.str();
}

}  // namespace collegium
