// Optimisers and learning-rate schedules: one a file, state in buffers so that checkpoints keep it.
#pragma once
#include <ATen/core/Tensor.h>

#include "collegium/base/catalogue.h"
#include "collegium/base/parameters.h"

namespace collegium::train {

using at::Tensor;

class Optimizer {
 public:
  using Interface = Optimizer;
  struct Inputs {
    std::vector<ParameterRef> parameters;  ///< trained ones only; the tensors must outlive the optimiser
  };
  struct Claims {
    std::vector<std::pair<std::string, std::string>> describe() const { return {}; }
  };
  virtual ~Optimizer() = default;
  /// One step from the gradients; the learning rate is the config's times `factor`. Parameters without a gradient
  /// stay as they are.
  virtual void step(double factor) = 0;
  virtual double learning_rate() const = 0;
  virtual void collect(ParameterList& list) = 0;
};

Entries<Optimizer> optimizers();

/// Factor in [0, 1] on the learning rate at each step.
class Schedule {
 public:
  using Interface = Schedule;
  struct Inputs {
    int64_t steps = 0;  ///< length of the run
  };
  struct Claims {
    std::vector<std::pair<std::string, std::string>> describe() const { return {}; }
  };
  virtual ~Schedule() = default;
  /// step in [0, steps).
  virtual double factor(int64_t step) const = 0;
};

Entries<Schedule> schedules();

/// Linear warm-up: (step + 1) / warmup below `warmup`, 1 from there on.
double warmup_factor(int64_t step, int64_t warmup);

}  // namespace collegium::train
