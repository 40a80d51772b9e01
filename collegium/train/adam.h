// AdamW's arithmetic through torch's fused kernel, for optimisers that use it for all or some parameters.
#pragma once
#include "collegium/train/optimizer.h"

namespace collegium::train {

struct AdamOptions {
  double lr = 1e-3, beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8, weight_decay = 0.1;
};

/// State and step of AdamW over a list of parameters; vectors (gains, biases) are not decayed.
class Adam {
 public:
  explicit Adam(std::vector<ParameterRef> parameters);
  void step(const AdamOptions& options, double factor);
  void collect(ParameterList& list);

 private:
  struct Slot {
    ParameterRef parameter;
    Tensor mean, square, count;
  };
  std::vector<Slot> slots_;
};

}  // namespace collegium::train
