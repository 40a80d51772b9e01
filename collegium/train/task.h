// What is learned from what: the part of training that depends on the kind of data. The loop, optimisers, schedules,
// checkpoints and the sums about routing are the same for all; a task gives them passes and says what their sums mean.
// Everything random in a task is a function of (seed, step), so that a resumed run repeats it.
#pragma once
#include <ATen/core/Tensor.h>

#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "collegium/data/order.h"
#include "collegium/model/model.h"
#include "collegium/train/meter.h"
#include "collegium/train/routing_meter.h"

namespace collegium::train {

/// One training pass.
struct Pass {
  Tensor loss;                ///< scalar: mean over the targets, in nats, with gradient; losses of layers are in output
  PassSums sums;              ///< what the meter adds
  model::ModelOutput output;  ///< what the layers decided, and their losses
};

/// One pass over what is held out.
struct Evaluation {
  Meter meter;
  RoutingMeter routing;
  nlohmann::json more = nlohmann::json::object();  ///< further members of its row of metrics
};

/// What people follow of a run, and how it is said.
struct Headline {
  std::string_view key;    ///< of the task's scores: "bpb", "accuracy"
  std::string_view unit;   ///< after the number: "bits per byte"
  std::string_view speed;  ///< what goes through in a second: "tok/s"
};

/// Asked between batches; true = stop as soon as possible.
using IsInterrupted = std::function<bool()>;

class Task {
 public:
  virtual ~Task() = default;
  virtual model::Model& model() = 0;
  /// Micro-batch `micro` of step `step`, forward only; equal arguments give equal passes.
  virtual Pass pass(int64_t step, int64_t micro) = 0;
  /// Without gradient; changes no state. Cut short when interrupted: what it gives is then of no use.
  virtual Evaluation evaluate(const IsInterrupted& is_interrupted) = 0;
  /// What the run's last evaluation measures besides; members of its row of metrics.
  virtual nlohmann::json last_measures(const IsInterrupted&) { return nlohmann::json::object(); }
  /// The task's own numbers of a meter's sums, by key: {"bpb": 2.1}. Members of each row of metrics.
  virtual std::map<std::string, double> scores(const Meter& meter) const = 0;
  virtual Headline headline() const = 0;
  /// How far training has come in its data before `step`.
  virtual data::Cursor cursor(int64_t step) const = 0;
};

}  // namespace collegium::train
