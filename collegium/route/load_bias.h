// A selection bias per expert that follows the load: what such balancers share.
//
// E experts.
#pragma once
#include <ATen/ATen.h>

#include "collegium/route/stages.h"

namespace collegium::route {

class LoadBias : public Balancer {
 public:
  // Load as asked: what was dropped for lack of room still shows whom the tokens want.
  void observe(const Decision& decision, const Context&) override { pending_E_ += decision.asked_E().to(pending_E_); }
  Tensor bias_E() const override { return bias_E_; }
  Needs needs() const override {
    return {.scores = {ScoreKind::softmax, ScoreKind::sigmoid, ScoreKind::relu}, .selection_bias = true};
  }
  void collect(ParameterList& list) override {
    list.buffer("bias", bias_E_);
    list.buffer("pending_load", pending_E_);
  }

 protected:
  explicit LoadBias(const StageInputs& in) {
    const auto options = at::TensorOptions().dtype(at::kDouble).device(in.options.device_opt());
    bias_E_ = at::zeros({in.n_experts}, options);
    pending_E_ = at::zeros({in.n_experts}, options);
  }

  Tensor bias_E_, pending_E_;  // double; pending: the load since the last step
};

}  // namespace collegium::route
