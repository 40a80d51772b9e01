// A run: a recipe carried out in a folder of its own.
//
//   <runs root>/runs.sqlite            the list of all runs
//   <runs root>/<id>/config.toml       the configuration, every value written out
//                    init.json         what it took of the weights that it started from (train.init_from)
//                    env.json          versions, processor, memory, device
//                    data.json         sources with hashes, statistics, notes
//                    tokenizer.json    reads with Hugging Face's `tokenizers` (of text)
//                    metrics.jsonl     what a resumed run repeats bitwise
//                    timing.jsonl      what it cannot: seconds, tokens per second
//                    checkpoints/      see io/checkpoint.h
//                    translation.json  answers to held-out prompts and their chrF, where the data have prompts
//                    probes.json  what hidden units say of held-out data, where their meaning is known (chess)
//                    sample.json       text from the trained model, with its routing (of text)
//                    report.html       one page, opens offline
#pragma once
#include <functional>
#include <memory>
#include <optional>

#include "collegium/io/fs.h"
#include "collegium/io/run_store.h"
#include "collegium/recipe/recipe.h"

namespace collegium {

/// What a run needs from outside. Nothing here is read from the environment below this point.
struct RunSetting {
  io::Path runs_root;
  data::SourcePaths data_paths;
  at::Device device = at::kCPU;
  Progress* progress = nullptr;
  std::function<bool()> is_interrupted;
  Clock clock;
  std::function<std::string()> now;  ///< UTC, "2026-01-31T12:00:00Z"
  std::string git_commit;            ///< that the program was built from; empty = unknown
  std::string code;                  ///< names the engine's source; empty = unknown (no repository, or changed files)
};

/// Which finished runs of the same configuration and seed below the runs root count as done.
enum class Reuse {
  this_code,  ///< of the very source that runs now (RunSetting::code), or of its commit where that is unknown
  any_code
};

struct RunOutcome {
  io::Run run;
  io::Path folder;
  train::TrainResult result;
  std::vector<std::string> warnings;  ///< damaged checkpoints that were passed over, notes on the data
  std::vector<std::string> start;     ///< what it took of the weights it started from, for people; empty for new ones
};

/// Trains in a new folder; `name` stands first in the run's id. Where config.train.init_from names a recipe, that is
/// trained before, unless a finished run of it is there that counts for `sources`.
RunOutcome start_run(const RunConfig& config, const std::string& name, const std::string& recipe_path,
                     const RunSetting& setting, Reuse sources = Reuse::this_code);

/// Goes on with the run in `folder` from its newest good checkpoint. Refused (with the differences) when `config` is
/// not the run's own, unless `allow_drift`. The weights that the run started from are in its checkpoints: their source
/// is read again only where the run was killed before its first.
RunOutcome resume_run(const io::Run& run, const RunConfig& config, bool allow_drift, const RunSetting& setting);

/// The newest run of this recipe that is not finished; a usage Error when there is none.
io::Run find_unfinished(io::RunStore& store, const std::string& recipe_path);

/// A trained model, ready to use.
struct OpenedRun {
  io::Path folder;
  RunConfig config;
  Table config_table;
  std::optional<data::Tokenizer> tokenizer;  ///< of runs that read text
  std::unique_ptr<model::Model> model;
  int64_t step = 0;
  std::vector<std::string> warnings;

  /// The model of a run that reads text; a usage Error says that `what` ("generate") needs one.
  model::LanguageModel& language_model(std::string_view what) const;
};

/// Opens a run folder and loads its newest good checkpoint, or that of `step`.
OpenedRun open_run(const io::Path& folder, at::Device device, std::optional<int64_t> step = {});

/// The language model of a configuration. device may be at::kMeta: then it has shapes and no numbers.
/// count_V: how often each token occurs in the training text, where the model is to be trained.
std::unique_ptr<model::LanguageModel> build_language_model(const RunConfig& config, int64_t vocabulary,
                                                           at::Device device, const Tensor& count_V = {});

/// Data for `report_page`, from the run folder alone.
nlohmann::json report_data(const io::Path& folder);

/// Data for `compare_page`. Runs are grouped by equal configuration (seeds aside); `names` label the groups in the
/// order in which they first appear (empty: the differing values).
nlohmann::json compare_data(const std::vector<io::Path>& folders, const std::vector<std::string>& names = {});

/// Writes <folder>/report.html and returns its path.
io::Path write_report(const io::Path& folder);

/// Samples text as config.sample says and writes sample.json. Nothing when the prompt is empty or the run reads no
/// text.
void write_sample(OpenedRun& run, at::Device device);

/// {"run": what it is and cost, "layer_names", "n_experts"} of a stored run.
nlohmann::json run_facts(const io::Path& folder);

/// translation.json of a run; an empty object when there is none.
nlohmann::json read_translation(const io::Path& folder);
/// probes.json of a run; an empty object when there is none.
nlohmann::json read_probes(const io::Path& folder);

/// A line of a JSON lines file each; empty when there is no file.
std::vector<nlohmann::json> rows_of(const io::Path& path);

}  // namespace collegium
