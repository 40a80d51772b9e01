// Evidence: a recipe and its baseline trained over the same seeds in one go, every expectation judged.
#pragma once
#include "collegium/recipe/run.h"

namespace collegium {

enum class Verdict { held, not_shown, failed };
std::string_view verdict_text(Verdict verdict);  ///< "held", "not shown at this scale", "failed"

struct JudgedExpectation {
  Expectation expectation;
  std::vector<double> ours, baseline;  ///< one a seed; baseline empty without one
  Verdict verdict = Verdict::failed;
  bool in_turn = false;          ///< measured when it was judged, see in_turn.h
  std::vector<double> by_layer;  ///< of per_token: ours in each layer with experts, the mean over the seeds
};

struct Evidence {
  Recipe recipe;
  std::vector<io::Path> ours, baseline;  ///< run folders, one a seed
  std::vector<JudgedExpectation> judged;
  double seconds = 0;
};

/// ", may be worse by 0.01" or ", must be better by 0.05" where a comparison has a margin, else "".
std::string margin_text(const Expectation& expectation);

/// Judges one expectation. A property (equals, at_most, at_least) must hold on each seed: held or failed. A
/// comparison is paired by seed: held when ours is better by more than `value` on every seed, failed when it is worse
/// on every seed, else not shown at this scale. A negative value is what ours may be worse by: failed is then worse by
/// more than that on every seed.
Verdict judge(const Expectation& expectation, const std::vector<double>& ours, const std::vector<double>& baseline);

/// The finished runs of the recipe's own side, one a seed, trained where they are not there yet.
std::vector<io::Path> runs_of(const Recipe& recipe, const RunSetting& setting, Reuse reuse = Reuse::this_code);

/// Trains what is not there yet, and judges. `check_expectations` (expectations.h) comes before.
Evidence gather_evidence(const Recipe& recipe, const RunSetting& setting, Reuse reuse = Reuse::this_code);

/// As stored in docs/evidence/<name>.json: measure, ours, baseline, seeds, spread, verdict, the paper's figure. Commit,
/// code, torch and kind of machine are those of the runs, not of the program that judges; where runs differ all are
/// named, with ", " between them ("; " between machines). code is empty where that of a run is not known. What is
/// measured in turn has commit and machine of the program that judges, as `measured`.
nlohmann::json evidence_json(const Evidence& evidence, const RunSetting& setting);

/// The commits of a stored result as tables show them.
std::string short_commits(std::string_view commits);

/// The generated table of all stored results, Markdown.
std::string evidence_table(const std::vector<nlohmann::json>& results);

}  // namespace collegium
