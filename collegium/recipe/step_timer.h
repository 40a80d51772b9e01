// Seconds of real training steps, for plans and for comparisons of speed.
#pragma once
#include <memory>
#include <optional>

#include "collegium/recipe/run.h"

namespace collegium {

/// Training steps of one model, timed one by one, so that several timers can take turns on a machine whose speed
/// drifts.
class StepTimer {
 public:
  /// On random data, from first weights.
  StepTimer(const RunConfig& config, const RunSetting& setting);
  /// On the training data of a finished run, from its trained weights: routers do what they learned to do. The run's
  /// folder stays as it is.
  StepTimer(const io::Path& folder, const RunSetting& setting);
  ~StepTimer();

  /// Trains one step. Seconds.
  double step();
  int64_t tokens_per_step() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

struct StepMemory {
  double before = 0;  ///< bytes that this process held; on a device, that were in use there
  double most = 0;    ///< bytes at the peak of the steps
};

/// Memory of two training steps on random data, one pass of batch_size sequences each; in the second, gradients and the
/// optimiser's state are there. On the device that trains. Nothing where system or torch do not tell.
std::optional<StepMemory> memory_of_steps(RunConfig config, const RunSetting& setting);

}  // namespace collegium
