#include "collegium/route/primal_dual.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "collegium/kernels/top_k.h"

namespace collegium::route {
namespace {

double sum_of(const Tensor& t) {
  return t.sum().item<double>();
}

double largest_change(const BiasedChoice& now, const BiasedChoice& then) {
  return (then.load_E - now.load_E).abs().max().item<double>();
}

// Of the tokens that moved, how many entered an expert that had no less load than one that they left.
double preference_broken(const BiasedChoice& now, const BiasedChoice& then) {
  const auto left_NE = now.chosen_NE.logical_and(then.chosen_NE.logical_not());
  const auto entered_NE = then.chosen_NE.logical_and(now.chosen_NE.logical_not());
  const auto far = 1 + sum_of(now.load_E);
  const auto left_N = at::where(left_NE, now.load_E, far).amin(1);
  const auto entered_N = at::where(entered_NE, now.load_E, -far).amax(1);
  const auto moved_N = entered_NE.any(1);
  return sum_of(moved_N.logical_and(entered_N.ge(left_N))) / std::max(1.0, sum_of(moved_N));
}

}  // namespace

BiasedChoice::BiasedChoice(const Tensor& score_NE, const Tensor& bias_E, int64_t k)
    : chosen_NE(at::zeros_like(score_NE, at::kBool)
                    .scatter_(1, kernels::top_k(score_NE, k, bias_E).expert_NK.to(score_NE.device()), true)),
      load_E(chosen_NE.sum(0).to(at::kDouble)) {}

Tensor BiasedChoice::excess_E() const {
  return load_E - load_E.mean();
}
double BiasedChoice::deviation() const {
  return excess_E().abs().max().item<double>();
}
double BiasedChoice::lagrangian(const Tensor& score_NE, const Tensor& bias_E) const {
  return sum_of(score_NE * chosen_NE) + sum_of(bias_E * excess_E());
}

StepChecks check_step(const Tensor& score_NE, const Tensor& bias_E, const Tensor& change_E, int64_t k) {
  const BiasedChoice now(score_NE, bias_E, k), then(score_NE, bias_E + change_E, k);
  const auto moved_NE = then.chosen_NE.to(at::kDouble) - now.chosen_NE.to(at::kDouble);
  const auto benefit = sum_of((score_NE + bias_E + change_E) * moved_NE);
  const auto taken_E = -change_E * now.excess_E();
  const auto before = now.lagrangian(score_NE, bias_E);
  const auto change = then.lagrangian(score_NE, bias_E + change_E) - before;
  StepChecks out;
  out.fell = change <= 1e-12 * (1 + std::abs(before));
  out.error = std::abs(change - (benefit - sum_of(taken_E))) / (1 + std::abs(before));
  // A switch gains at most what the biases of two experts moved apart. What a step of this length should take counts,
  // not what it takes: a step of the wrong sign gives, and then no number of switches would be too few.
  const auto spread = (change_E.max() - change_E.min()).item<double>();
  out.fall_broken = sum_of(moved_NE.gt(0)) * spread < sum_of(taken_E.abs()) && !out.fell;
  out.preference_broken = preference_broken(now, then);
  out.deviation_broken = then.deviation() > std::max(now.deviation(), largest_change(now, then));
  return out;
}

SettlingChecks check_settling(const Tensor& score_NE, Tensor bias_E, int64_t k, int64_t steps,
                              const std::function<Tensor(const Tensor&, int64_t)>& change_of) {
  BiasedChoice now(score_NE, bias_E, k);
  double late = 0, largest = 0;
  for (int64_t i = 0; i < steps; ++i) {
    bias_E = bias_E + change_of(now.load_E, i);
    const BiasedChoice then(score_NE, bias_E, k);
    largest = std::max(largest, largest_change(now, then));
    if (i >= steps - steps / 4) late = std::max(late, then.deviation());
    now = then;
  }
  return {late / now.load_E.mean().item<double>(), late > largest};
}

}  // namespace collegium::route
