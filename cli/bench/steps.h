// Whole training steps (forward, backward, clipping, AdamW) of two language models in the shapes of OLMoE and Mixtral:
//
//   collegium            Collegium's decoder and training loop, as `collegium train` runs them
//   collegium experts    the same decoder in torch's operations, with Collegium's experts
//   grouped_mm, loop     the same, with torch's grouped product and with a loop over the experts (experts.h)
//
// All have the same first weights, tokens and optimiser (torch's fused AdamW), no balancing loss, and the same loss at
// first.
#pragma once
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cli/bench/turns.h"

namespace collegium::cli {

struct StepShape {
  std::string_view name;
  int64_t width, layers, heads, vocabulary, experts, k, hidden, sequences, context;
  int64_t tokens() const { return sequences * context; }
};

/// The two shapes, those of python/collegium/bench/models.py; quick: the same in miniature.
std::span<const StepShape> step_shapes(bool quick);

/// The contenders of a shape, ready to step.
class StepRace {
 public:
  virtual ~StepRace() = default;
  /// Makes each contender's first step, which belongs before any other; its losses in nats, in the order of
  /// `contenders`.
  virtual std::vector<double> first_losses() = 0;
  /// One step each, "collegium" first. They live as long as the race.
  virtual std::vector<Contender> contenders() = 0;
};

std::unique_ptr<StepRace> make_step_race(const StepShape& shape);

}  // namespace collegium::cli
