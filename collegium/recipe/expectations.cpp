#include "collegium/recipe/expectations.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "collegium/data/sources.h"
#include "collegium/recipe/aux_terms.h"
#include "collegium/recipe/measures.h"
#include "collegium/recipe/workload.h"

namespace collegium {
namespace {

using Place = Measure::Place;

constexpr std::array<std::string_view, 15> kOfText = {
    "valid_bpb",      "best_bpb",          "train_bpb",           "gap",      "noisy_bpb", "noise_rise",
    "token_accuracy", "routing_noise_bpb", "routing_noise_rise",  "rare_bpb", "agreement", "divergence",
    "chrf",           "board_coverage",    "board_reconstruction"};
constexpr std::array<std::string_view, 4> kOfImages = {"valid_accuracy", "deciding_share", "deciding_weight", "found"};
// Rows that only layers with experts fill.
constexpr std::array<std::string_view, 4> kOfExperts = {"deciding_share", "deciding_weight", "found",
                                                        "class_information"};

template <size_t n>
bool is_among(const std::array<std::string_view, n>& all, std::string_view measure) {
  return std::ranges::find(all, measure) != all.end();
}

// Whether a source may hold what `is_such` asks for: a text of one's own may, where `own_may`.
bool any_source(const RunConfig& run, bool own_may, const std::function<bool(const data::Source&)>& is_such) {
  return std::ranges::any_of(run.data.sources, [&](const std::string& name) {
    const auto* source = data::find_source(name);
    return source ? is_such(*source) : own_may;
  });
}

std::string why_no_translations(const RunConfig& run) {
  if (run.sample.translations == 0) return "sample.translations is 0";
  const auto has_pairs = [](const data::Source& s) { return s.reader == data::SourceReader::gettext; };
  return any_source(run, false, has_pairs) ? "" : "no source of data.sources has translations";
}

std::string why_no_boards(const RunConfig& run) {
  if (run.sample.boards < 2) return text("sample.boards is ", run.sample.boards, ", and 2 games are the least");
  const auto is_games = [](const data::Source& s) { return s.name == "chess" || s.name == "stockfish"; };
  return any_source(run, true, is_games) ? "" : "no source of data.sources has games of chess";
}

// What the configuration leaves out.
std::string why_not_asked_for(const RunConfig& run, std::string_view measure) {
  const auto& t = run.train;
  if (measure.starts_with("nois") && t.noise == 0) return "train.noise is 0: no token is replaced";
  if (measure.starts_with("routing_noise") && t.routing_noise == 0) return "train.routing_noise is 0";
  if ((measure == "agreement" || measure == "divergence") && !t.agreement) return "train.agreement is false";
  if (measure == "chrf") return why_no_translations(run);
  if (measure.starts_with("board_")) return why_no_boards(run);
  if (measure == "fluctuation" && (t.eval_every == 0 || t.eval_every >= t.steps))
    return text("train.eval_every = ", t.eval_every, " gives one evaluation in ", t.steps,
                " steps, and two are compared");
  return "";
}

bool is_of_layers(const Measure& m) {
  return m.place == Place::layers || m.place == Place::training_layers;
}

bool needs_evaluation(const Measure& m) {
  return is_of_layers(m) || m.place == Place::statistics || is_among(kOfExperts, m.name);
}

bool any_layer_has(const nlohmann::json& evaluation, std::string_view key) {
  return std::ranges::any_of(evaluation.at("layers"), [&](const auto& layer) { return layer.contains(key); });
}

std::string why_not_of_this_model(const Measure& m, const nlohmann::json& evaluation) {
  if (m.place == Place::statistics)
    return evaluation.value("statistics", nlohmann::json::object()).contains(m.name)
               ? ""
               : "no layer of the model tells of its hidden units";
  if (evaluation.at("layers").empty()) return "no layer of the model assigns tokens to experts";
  // What comes with the second evaluation, or from another row, cannot be seen here.
  const bool is_seen = m.place == Place::layers && m.name != "fluctuation";
  return is_seen && !any_layer_has(evaluation, m.name) ? "no layer of the model has it" : "";
}

void check_pair(const Expectation& e) {
  // A run that never gets to the baseline's loss counts its own steps.
  require(e.relation == Relation::at_most && e.value < 1, subject_of(e),
          "the relation must be at_most, with a value below 1, which a run that never gets there does not reach");
}

// Evaluations of one side, made where a measure asks for one.
class Side {
 public:
  Side(const RunConfig& run, std::string name) : run_(run), name_(std::move(name)) {}
  void check(const Expectation& e) {
    const auto measure = find_measure(e.measure);
    if (needs_evaluation(measure) && evaluation_.is_null()) evaluation_ = imagined_evaluation(run_);
    const auto why = why_unmeasured(run_, e.measure, evaluation_);
    require(why.empty(), subject_of(e), name_, " cannot measure it: ", why);
  }

 private:
  const RunConfig& run_;
  std::string name_;
  nlohmann::json evaluation_;
};

}  // namespace

std::string subject_of(const Expectation& e) {
  return text(e.where.empty() ? "expect" : e.where, ": ", e.measure, ": ");
}

std::string why_unmeasured(const RunConfig& run, std::string_view name, const nlohmann::json& evaluation) {
  if (is_among(kOfText, name) && !has_text(run)) return text("the task '", run.task.name, "' has no text");
  if (is_among(kOfImages, name) && has_text(run)) return text("the task '", run.task.name, "' has no images");
  if (auto why = why_not_asked_for(run, name); !why.empty()) return why;
  const auto measure = find_measure(name);
  return needs_evaluation(measure) ? why_not_of_this_model(measure, evaluation) : "";
}

nlohmann::json imagined_evaluation(const RunConfig& run) {
  auto small = run;
  small.train.batch_size = 2, small.train.accumulation = 1, small.train.eval_windows = 2;
  const auto workload = task_of(small)->imagine(small);
  const auto model = workload->build_model(at::kCPU);
  const auto task = workload->learn(*model, at::kCPU);
  const auto evaluation = task->evaluate({});
  auto row = evaluation.meter.row();
  evaluation.routing.report(row, {});
  row.update(evaluation.more);
  return row;
}

void check_expectations(const Recipe& recipe) {
  Side ours(recipe.run, "the recipe's side"), baseline(recipe.baseline, "the baseline");
  for (const auto& e : recipe.expectations) {
    const bool is_pair = find_measure(e.measure).place == Place::pair;
    require(recipe.has_baseline || !(is_pair || is_comparison(e)), subject_of(e),
            "a comparison needs a [baseline] in the recipe");
    if (is_pair) check_pair(e);
    ours.check(e);
    if (is_comparison(e)) baseline.check(e);
  }
  check_aux_terms(recipe);
}

}  // namespace collegium
