// Expert feed-forward networks: ours against the path that transformers takes (its integrations/moe.py,
// grouped_mm_experts_forward, transcribed call by call onto at::_grouped_mm, so that Python costs neither side) and
// against a loop over the experts. Each contender starts from the router's output (expert ids and weights [T, k]) and
// so pays for its own sorting.
//
// Legend: T tokens, D model width, I expert hidden width, E experts, k choices, R = T k assignments.
#pragma once
#include <ATen/core/Tensor.h>

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cli/bench/turns.h"

namespace collegium::cli {

using at::Tensor;

struct ExpertShape {
  int64_t tokens, width, hidden, experts, k;
  bool trains;  ///< backward passes are worth measuring, too
  std::string name() const;
};

/// The shapes that docs/benchmarks.md reports; quick: two tiny ones, to see that everything runs.
std::span<const ExpertShape> expert_shapes(bool quick);

/// How unevenly experts are chosen: evenly, by Zipf's law, or expert 0 by every token and the rest evenly.
enum class Skew { uniform, zipf, hot };
std::string_view skew_name(Skew skew);

struct ExpertProblem {
  ExpertShape is;
  Tensor x_TD, weight_Tk, expert_Tk, gate_up_EHD, down_EDI, grad_TD;
  double flops(bool backward) const;
};
ExpertProblem make_problem(const ExpertShape& is, Skew skew, at::ScalarType type);

/// "collegium", "grouped_mm" (where this torch has it) and "loop".
std::vector<std::string> expert_contender_names();

/// [T, D]: the problem's output as the contender of that name computes it; a usage Error when there is none.
Tensor run_experts(std::string_view name, const ExpertProblem& problem);

/// Every contender, one pass each.
std::vector<Contender> expert_contenders(const ExpertProblem& problem, bool backward);

/// Ours from the first rival's, results and gradients, relative to the largest value.
double worst_difference(const ExpertProblem& problem);

}  // namespace collegium::cli
