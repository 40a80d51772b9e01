// Tasks as recipes name them ([task]): what the data is, which models fit, what is learned. Runs, plans, evidence and
// pages work on these two interfaces and know no kind of data.
#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "collegium/base/catalogue.h"
#include "collegium/model/model.h"
#include "collegium/recipe/run.h"
#include "collegium/route/trace.h"
#include "collegium/train/task.h"

namespace collegium {

/// The data of one run, ready, with the model and the learning that fit it.
class Workload {
 public:
  virtual ~Workload() = default;
  /// A model of the run's configuration with its first weights. device may be at::kMeta: shapes and no numbers.
  virtual std::unique_ptr<model::Model> build_model(at::Device device) const = 0;
  /// `model` is one that build_model gave. Model and workload must outlive the task.
  virtual std::unique_ptr<train::Task> learn(model::Model& model, at::Device device) const = 0;
  /// Routes at least `n_tokens` held-out tokens (all of them when there are fewer) through `model` of step `step`.
  virtual route::RoutingTrace trace_held_out(model::Model& model, int64_t n_tokens, int64_t step,
                                             at::Device device) const = 0;
  /// One pass over a batch (train.batch_size sequences, fewer where there are fewer) of what is held out, as when it is
  /// used: the phase evaluate, nothing recorded. How many tokens that were.
  virtual int64_t read_held_out(model::Model& model, at::Device device) const = 0;
  /// How a finished run's model answers held-out prompts, kept as translation.json; null where the data have none.
  virtual nlohmann::json answers(model::Model&, at::Device) const { return nullptr; }
  /// What a finished run's hidden units say of held-out data, kept as probes.json; null where nothing is known of them.
  virtual nlohmann::json probes(model::Model&, at::Device) const { return nullptr; }
  /// Names everything that the data follow from.
  virtual std::string key() const = 0;
  /// What data.json keeps: key, sizes, notes, sources.
  virtual nlohmann::json record() const = 0;
  /// What a reader of results should know.
  virtual std::vector<std::string> notes() const { return {}; }
  /// What its tokens mean, as a tokenizer.json; empty where data are not tokens of text.
  virtual std::string words() const { return {}; }
  /// What else of the data a stored run needs, written into its folder.
  virtual void save(const io::Path&) const {}
};

class TaskKind {
 public:
  using Interface = TaskKind;
  static constexpr bool has_equation = false;  // data and measures
  struct Inputs {};
  struct Claims {
    bool has_text = false;  ///< its models read and write text: generate, explain and samples work
    std::vector<std::pair<std::string, std::string>> describe() const { return {{"text", has_text ? "yes" : "no"}}; }
  };
  virtual ~TaskKind() = default;
  /// Reads the data and checks that configuration and data fit. `config` must outlive the workload.
  virtual std::unique_ptr<Workload> prepare(const RunConfig& config, const RunSetting& setting) const = 0;
  /// The same shapes filled with random numbers; no data are read. For plans and measurements of speed.
  virtual std::unique_ptr<Workload> imagine(const RunConfig& config) const = 0;
  /// The model of a stored run, from what data.json recorded.
  virtual std::unique_ptr<model::Model> stored_model(const RunConfig& config, const nlohmann::json& record,
                                                     at::Device device) const = 0;
  /// Tokens of a training sequence; of an image, its patches.
  virtual int64_t sequence_length(const RunConfig& config) const = 0;
  /// How a token is shown, by the ids of trace_held_out; empty = ids have no words.
  virtual std::string token_words(int64_t) const { return {}; }
};

/// Every kind of task.
Entries<TaskKind> tasks();

/// The task of a run.
std::unique_ptr<TaskKind> task_of(const RunConfig& config);

/// Whether models of this run's task read and write text.
bool has_text(const RunConfig& config);

/// Parts of a run's configuration, dotted, that this task does not read.
std::vector<std::string_view> unread_parts(const RunConfig& config);

}  // namespace collegium
