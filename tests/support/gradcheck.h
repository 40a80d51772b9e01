// Derivatives held against central differences: the whole Jacobian, in double.
//
// O values of the function, P entries of the tensors it depends on.
#pragma once
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace collegium::test {

/// What the function gives at one point.
struct Evaluated {
  at::Tensor value;     ///< double, any shape, with gradient
  at::Tensor discrete;  ///< what must not change within the step (who was chosen); may be undefined
};

/// A tensor to differentiate by. Kept by reference: it is moved in place.
struct Variable {
  std::string name;
  at::Tensor tensor;  ///< double leaf that requires grad, contiguous
};

/// The largest deviation found. `is_smooth` is false when `discrete` changed between two points: then the function
/// jumps nearby, the comparison means nothing, and the test has to choose other inputs.
struct GradientReport {
  double worst = 0;  ///< |analytic - numeric| / max(1, |numeric|)
  std::string where;
  bool is_smooth = true;
  int64_t n_compared = 0;
  double largest = 0;  ///< largest |numeric| derivative, so that a test can see that it compared something
};

/// Jacobian of `function` by each variable, from backward passes and from (f(p + h) - f(p - h)) / 2h.
inline GradientReport check_gradients(const std::function<Evaluated()>& function, std::vector<Variable> variables,
                                      double h = 1e-5) {
  GradientReport report;
  const auto here = function();
  const auto value_O = here.value.reshape({-1});
  const auto n_values = value_O.size(0);

  std::vector<at::Tensor> analytic_OP;
  for (const auto& v : variables) analytic_OP.push_back(at::zeros({n_values, v.tensor.numel()}, at::kDouble));
  for (int64_t o = 0; o < n_values && value_O.requires_grad(); ++o) {
    for (auto& v : variables) v.tensor.mutable_grad() = at::Tensor();
    value_O[o].backward({}, /*retain_graph=*/true);
    for (size_t i = 0; i < variables.size(); ++i)
      if (const auto& g = variables[i].tensor.grad(); g.defined()) analytic_OP[i][o].copy_(g.reshape({-1}));
  }
  for (auto& v : variables) v.tensor.mutable_grad() = at::Tensor();

  const at::NoGradGuard no_grad;
  for (size_t i = 0; i < variables.size(); ++i) {
    auto* entry = variables[i].tensor.mutable_data_ptr<double>();
    for (int64_t p = 0; p < variables[i].tensor.numel(); ++p) {
      const double before = entry[p];
      const auto at_point = [&](double x) {
        entry[p] = x;
        auto there = function();
        if (here.discrete.defined() && !at::equal(here.discrete, there.discrete)) report.is_smooth = false;
        return there.value.reshape({-1});
      };
      const auto numeric_O = (at_point(before + h) - at_point(before - h)) / (2 * h);
      entry[p] = before;
      const auto off_O = (analytic_OP[i].select(1, p) - numeric_O).abs() / numeric_O.abs().clamp_min(1);
      const auto worst = n_values ? off_O.max().item<double>() : 0;
      report.n_compared += n_values;
      report.largest = std::max(report.largest, n_values ? numeric_O.abs().max().item<double>() : 0);
      if (!(worst <= report.worst))
        report.worst = worst, report.where = variables[i].name + "[" + std::to_string(p) + "]";
    }
  }
  return report;
}

}  // namespace collegium::test
