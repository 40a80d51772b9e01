// A recipe: what to train on what data, how, and what it should show.
#pragma once
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "collegium/base/config.h"
#include "collegium/data/prepare.h"
#include "collegium/infer/generate.h"
#include "collegium/train/trainer.h"

namespace collegium {

/// Text that a report samples from the trained model.
struct SampleSection : infer::SampleConfig {
  std::string prompt = "The ";
  int64_t translations = 64;
  int64_t boards = 200;
  int64_t board_layer = -1;
  void visit(Fields& field) {
    field("prompt", prompt, {.help = "what the sample of the report continues; empty = no sample"});
    field(
        "translations", translations,
        {.help = "held-out documents with a prompt (sources of translations) that the trained model answers, for chrF",
         .unit = "documents",
         .min = 0});
    field("boards", boards,
          {.help = "held-out games of chess whose boards are read from the trained model's hidden units; 0 = none",
           .unit = "games",
           .min = 0});
    field("board_layer", board_layer, {.help = "layer whose hidden units are read; -1 = the middle one", .min = -1});
    infer::SampleConfig::visit(field);
  }
};

/// How a run is trained, and the weights that it starts from.
struct TrainSection : train::TrainConfig {
  std::string init_from, init_weights;
  std::vector<std::string> init_rows, init_fresh;
  void visit(Fields& field) {
    train::TrainConfig::visit(field);
    field(
        "init_from", init_from,
        {.help = "whose weights the run starts from: a run (id, its start, or folder), a checkpoint folder, or a "
                 "recipe (.toml), which is trained first with the same seed unless that is done; empty = new weights"});
    field("init_weights", init_weights,
          {.help = "SHA-256 of those weights (weights.safetensors), which is then insisted on; written into each run's "
                   "own configuration"});
    field("init_rows", init_rows,
          {.help =
               "tensors (names, * for any text) that may have another number of rows there: the first rows are taken, "
               "what is more stays new, as for a router that gets null experts"});
    field("init_fresh", init_fresh, {.help = "tensors (names, * for any text) that stay new whatever is there"});
  }
};

/// Everything that decides what a run computes.
struct RunConfig {
  int64_t seed = 1;
  Named task{.name = "language"};
  data::DataConfig data;
  Named model{.name = "decoder"};
  TrainSection train;
  SampleSection sample;
  void visit(Fields& field);
};

enum class Tier { fast, slow, gpu };
std::span<const std::string_view> enum_names(Tier);

/// How a measure has to stand for the recipe's claim to hold.
enum class Relation { equals, at_most, at_least, below_baseline, above_baseline };
std::span<const std::string_view> enum_names(Relation);

/// One [[expect]] of a recipe.
struct Expectation {
  std::string measure = "valid_bpb";
  Relation relation = Relation::below_baseline;
  double value = 0;       ///< the bound; for *_baseline: the margin that must be exceeded
  bool relative = false;  ///< for *_baseline: the margin is a share of the baseline's value
  double tolerance = 0;
  std::string paper_says;
  std::string where;  ///< "recipe.toml:12: expect[0]", for errors; no field
  void visit(Fields& field);
};

/// Whether it compares with the baseline rather than with a bound.
bool is_comparison(const Expectation& expectation);

struct Recipe {
  std::string name, path;
  int64_t paper = 0;
  std::string title, claim;
  Tier tier = Tier::slow;
  std::vector<int64_t> seeds;
  RunConfig run;
  bool has_baseline = false;
  std::string baseline_name;
  RunConfig baseline;
  /// Why there is no baseline, where --set changed the run so that the file's own no longer fits it.
  std::optional<Error> baseline_problem;
  std::vector<Expectation> expectations;
  /// [leaderboard]: the recipe takes part in the table of routers (leaderboard.h) on the table's own task, with these
  /// keys changed, all of them below model.moe or train.consistency.
  std::optional<Table> leaderboard;
  std::string leaderboard_absence;  ///< why it takes no part there, where it says so
  std::string written;  ///< what the file and its base say of the runs, as TOML; defaults are not written out
};

/// Reads a recipe, its base (one level) and the --set assignments. Throws usage Errors that name file, line, dotted
/// path and the nearest known key. A baseline that no longer fits after a --set is told in `baseline_problem`: only who
/// compares needs one.
Recipe read_recipe(const std::filesystem::path& path, const std::vector<std::string>& sets = {});

/// The run's configuration with every field written out, components too; checks them all.
Table resolved(const RunConfig& run);

/// Names everything a recipe's evidence depends on besides the code: both sides' configurations as they are written,
/// seeds, expectations. A field that is new to the code and stands in no recipe changes no name.
std::string recipe_hash(const Recipe& recipe);

/// Reads a resolved configuration back.
RunConfig read_run_config(const Table& resolved);

/// Fields of a recipe, for docs and `collegium show recipe`.
std::vector<FieldInfo> recipe_fields();

}  // namespace collegium
