// Muon: momentum whose matrix is orthogonalised by a few Newton-Schulz steps; each expert's matrix by itself. Other
// parameters (embeddings, routers, gains) take AdamW. Jordan 2024; the step size of Liu 2025 (Moonlight), section 2.2,
// which matches AdamW's root mean square, so that one learning rate serves both.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>

#include "collegium/train/adam.h"

namespace collegium::train {
namespace {

// [..., A, B] -> a matrix with the same singular vectors and singular values near one.
Tensor orthogonalised(const Tensor& m, int64_t steps) {
  // Coefficients of the quintic iteration, chosen for the steepest slope at zero (Jordan 2024).
  constexpr double a = 3.4445, b = -4.7750, c = 2.0315;
  const bool is_tall = m.size(-2) > m.size(-1);
  auto x = is_tall ? m.transpose(-2, -1) : m;
  x = x / x.norm(2, {-2, -1}, true).clamp_min(1e-7);
  for (int64_t i = 0; i < steps; ++i) {
    const auto gram = at::matmul(x, x.transpose(-2, -1));
    const auto poly = b * gram + c * at::matmul(gram, gram);
    x = a * x + at::matmul(poly, x);
  }
  return is_tall ? x.transpose(-2, -1) : x;
}

std::vector<ParameterRef> not_matrices(const std::vector<ParameterRef>& all) {
  std::vector<ParameterRef> out;
  std::copy_if(all.begin(), all.end(), std::back_inserter(out),
               [](const ParameterRef& p) { return p.kind != ParameterKind::matrix; });
  return out;
}

class Muon final : public Optimizer, public Makes<Muon, Optimizer> {
 public:
  using Interface = Optimizer;
  struct Config {
    double lr = 1e-3, adam_lr = 0, momentum = 0.95, weight_decay = 0.1, beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8;
    int64_t newton_schulz_steps = 5;
    void visit(Fields& field) {
      field("lr", lr, {.help = "highest learning rate, in AdamW's measure", .min = 0});
      field("adam_lr", adam_lr, {.help = "highest learning rate of what is not a matrix; 0 = lr", .min = 0});
      field("momentum", momentum, {.help = "decay of the momentum (Nesterov)", .min = 0, .max = 1});
      field("weight_decay", weight_decay,
            {.help = "decay of matrices and embeddings, times the learning rate", .min = 0});
      field("beta1", beta1, {.help = "AdamW's, for what is not a matrix", .min = 0, .max = 1});
      field("beta2", beta2, {.help = "AdamW's, for what is not a matrix", .min = 0, .max = 1});
      field("epsilon", epsilon, {.help = "AdamW's, for what is not a matrix", .min = 0});
      field("newton_schulz_steps", newton_schulz_steps, {.help = "iterations of the orthogonalisation", .min = 1});
    }
  };

  Muon(const Config& config, const Inputs& in) : config_(config), adam_(not_matrices(in.parameters)) {
    for (const auto& p : in.parameters)
      if (p.kind == ParameterKind::matrix) slots_.push_back({p, at::zeros_like(*p.tensor).detach()});
  }

  void step(double factor) override {
    const at::NoGradGuard no_grad;
    const auto lr = config_.lr * factor;
    for (auto& [parameter, momentum] : slots_) {
      auto& weight = *parameter.tensor;
      if (!weight.grad().defined()) continue;
      const auto& gradient = weight.grad();
      momentum.lerp_(gradient, 1 - config_.momentum);
      const auto direction = orthogonalised(gradient.lerp(momentum, config_.momentum), config_.newton_schulz_steps);
      const auto scale = 0.2 * std::sqrt(static_cast<double>(std::max(weight.size(-2), weight.size(-1))));
      weight.mul_(1 - lr * config_.weight_decay).add_(direction, -lr * scale);
    }
    adam_.step({.lr = config_.adam_lr > 0 ? config_.adam_lr : config_.lr,
                .beta1 = config_.beta1,
                .beta2 = config_.beta2,
                .epsilon = config_.epsilon,
                .weight_decay = config_.weight_decay},
               factor);
  }
  double learning_rate() const override { return config_.lr; }
  void collect(ParameterList& list) override {
    for (auto& slot : slots_) list.buffer(slot.parameter.name + ".momentum", slot.momentum);
    list.child("adam", adam_);
  }

 private:
  struct Slot {
    ParameterRef parameter;
    Tensor momentum;
  };
  Config config_;
  Adam adam_;
  std::vector<Slot> slots_;
};

}  // namespace

extern constinit const Entry<Optimizer> optimizer_muon =
    entry<Muon>({.name = "muon",
                 .source = "Jordan 2024 (Muon); Liu 2025 (Moonlight), section 2.2",
                 .taxonomy = "training/optimiser",
                 .summary = "orthogonalised momentum for matrices, each expert's by itself; AdamW for the rest",
                 .equation = "m ← μ m + (1 - μ) ∇,  W ← (1 - η λ) W - 0.2 η √max(rows, columns) · NS((1 - μ) ∇ + μ m)\n"
                             "NS: X ← X / ‖X‖, then several times X ← 3.4445 X - 4.775 X Xᵀ X + 2.0315 (X Xᵀ)² X"});

}  // namespace collegium::train
