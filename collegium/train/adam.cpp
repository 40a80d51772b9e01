#include "collegium/train/adam.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

namespace collegium::train {

Adam::Adam(std::vector<ParameterRef> parameters) {
  for (auto& p : parameters) {
    const at::NoGradGuard no_grad;
    auto mean = at::zeros_like(*p.tensor), square = at::zeros_like(*p.tensor);
    auto count = at::zeros({}, p.tensor->options().dtype(at::kFloat).requires_grad(false));
    slots_.push_back({std::move(p), mean, square, count});
  }
}

void Adam::step(const AdamOptions& options, double factor) {
  const at::NoGradGuard no_grad;
  for (const bool is_decayed : {true, false}) {
    std::vector<Tensor> parameters, gradients, means, squares, counts;
    for (auto& slot : slots_) {
      auto& parameter = *slot.parameter.tensor;
      if ((slot.parameter.kind != ParameterKind::vector) != is_decayed || !parameter.grad().defined()) continue;
      slot.count += 1;
      parameters.push_back(parameter), gradients.push_back(parameter.grad().contiguous());
      means.push_back(slot.mean), squares.push_back(slot.square), counts.push_back(slot.count);
    }
    if (parameters.empty()) continue;
    at::_fused_adamw_(parameters, gradients, means, squares, {}, counts, options.lr * factor, options.beta1,
                      options.beta2, is_decayed ? options.weight_decay : 0.0, options.epsilon, /*amsgrad=*/false,
                      /*maximize=*/false);
  }
}

void Adam::collect(ParameterList& list) {
  for (auto& slot : slots_) {
    list.buffer(slot.parameter.name + ".mean", slot.mean);
    list.buffer(slot.parameter.name + ".square", slot.square);
    list.buffer(slot.parameter.name + ".count", slot.count);
  }
}

}  // namespace collegium::train
