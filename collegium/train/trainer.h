// The training loop: passes of a task in, steps out; metrics, evaluations and checkpoints on the way. Everything random
// is a function of (seed, step), so a run that was killed and resumed ends bitwise where it would have ended.
#pragma once
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "collegium/base/config.h"
#include "collegium/base/progress.h"
#include "collegium/io/checkpoint.h"
#include "collegium/io/jsonl.h"
#include "collegium/train/optimizer.h"
#include "collegium/train/task.h"

namespace collegium::train {

enum class Precision { fp32, bf16 };
std::span<const std::string_view> enum_names(Precision);
at::ScalarType compute_type(Precision precision);

struct TrainConfig {
  int64_t steps = 500, batch_size = 16, context = 256, accumulation = 1;
  Named optimizer{.name = "adamw"}, schedule{.name = "cosine"};
  double consistency = 0;
  double clip = 1.0, noise = 0.15, routing_noise = 0;
  bool agreement = false;
  Precision precision = Precision::fp32;
  int64_t eval_every = 100, eval_windows = 0, log_every = 10, save_every = 100, keep = 2;
  void visit(Fields& field);
};

/// Where a run goes and who listens. Everything but `clock` may be absent.
struct TrainSinks {
  io::FileSystem* fs = nullptr;
  io::Path checkpoints;              ///< empty = none are written
  io::JsonLines* metrics = nullptr;  ///< rows that a resumed run repeats bitwise
  io::JsonLines* timing = nullptr;   ///< seconds and speed, which it cannot
  Progress* progress = nullptr;
  std::string title = "training";        ///< of the progress: which run this is
  std::function<bool()> is_interrupted;  ///< asked after each step
  Clock clock;
  nlohmann::json meta;  ///< stored in each checkpoint beside the loop's own state
};

enum class StopReason { finished, interrupted, not_finite };

struct TrainResult {
  StopReason reason = StopReason::finished;
  int64_t step = 0, tokens = 0;
  double tokens_per_second = 0;                ///< of this process, evaluations and saves not counted
  std::map<std::string, double> train, valid;  ///< the task's scores in the last row of each kind; empty without one
  Headline headline;
  std::string problem;               ///< for not_finite: what was not a number, and when
  std::optional<int64_t> kept_step;  ///< for not_finite: of the newest checkpoint to go on from, if there is one
};

class Trainer {
 public:
  /// `task` must outlive the trainer.
  Trainer(TrainConfig config, Task& task);

  /// Puts a checkpoint's weights, optimiser, balancers and loop state in place. An Error of kind data names tensors
  /// that are missing, extra or of another shape.
  void restore(const io::CheckpointData& data, io::JsonLines* metrics);

  /// Trains from where it stands to the end, an interrupt, or a loss, gradient or weight that is not finite. Weights
  /// that are not all finite are never saved, and a checkpoint of the very weights whose next pass is not finite is
  /// removed (to go on from it would meet that pass again): the one before it is kept.
  TrainResult run(const TrainSinks& sinks);

  /// Commits a checkpoint of where it stands below sinks.checkpoints.
  void save(const TrainSinks& sinks) const;

  int64_t step() const { return step_; }
  /// One optimiser step: the loop's body, for benchmarks and tests. False when the loss or gradient is not finite
  /// (nothing is changed then).
  bool train_step(Meter& meter);

 private:
  io::CheckpointData snapshot(const TrainSinks& sinks) const;
  std::optional<int64_t> keep_finite_checkpoint(const TrainSinks& sinks) const;
  nlohmann::json row(std::string_view kind, const Meter& meter) const;

  TrainConfig config_;
  Task& task_;
  std::vector<ParameterRef> parameters_;
  std::unique_ptr<Optimizer> optimizer_;
  std::unique_ptr<Schedule> schedule_;
  int64_t step_ = 0, tokens_ = 0;
  double gradient_norm_ = 0;
  bool evaluation_due_ = false;  ///< an interrupt cut the evaluation of this step short: a resumed run repeats it
  Meter meter_;
  Tensor first_expert_LN_;  ///< of what is held out at the last evaluation, for the fluctuation at the next
  std::map<std::string, double> train_scores_, valid_scores_;
};

/// Copies named tensors into `items`; an Error of kind data (starting with `what`) lists what does not fit.
void load_tensors(const std::vector<ParameterRef>& items, const std::vector<io::NamedTensor>& from,
                  std::string_view what);
/// The tensors of `items`, detached and on the CPU.
std::vector<io::NamedTensor> save_tensors(const std::vector<ParameterRef>& items);

}  // namespace collegium::train
