// What is proved of the bias update of loss-free balancing, held against one step on one pass's scores. Nothing here
// knows who made the step, so a test can hand in a wrong one. P108 (Han and Zhong 2025, arXiv 2512.03915), abstract (i)
// to (iii); the symbols are those of balancers/primal_dual_bias.cpp.
//
// N tokens, E experts, K choices, A_e load, L = N K / E the even load.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>

namespace collegium::route {

using at::Tensor;

/// Who is chosen by score and bias, and what follows. score_NE, bias_E: double.
struct BiasedChoice {
  BiasedChoice(const Tensor& score_NE, const Tensor& bias_E, int64_t k);
  Tensor excess_E() const;   ///< A_e - L
  double deviation() const;  ///< max_e |A_e - L|
  double lagrangian(const Tensor& score_NE, const Tensor& bias_E) const;

  Tensor chosen_NE, load_E;  ///< bool; double
};

struct StepChecks {
  bool fell = false;              ///< the Lagrangian did not rise
  double error = 0;               ///< by how much its change is not benefit less what the step takes, over 1 + |it|
  bool fall_broken = false;       ///< it rose though too few tokens moved to undo the step
  double preference_broken = 0;   ///< share of the tokens that moved, and not to an expert with less load
  bool deviation_broken = false;  ///< max_e |A_e - L| grew, beyond the largest change of one load
};

/// A step of the bias by change_E, after which all choose anew on scores that stay as they are.
StepChecks check_step(const Tensor& score_NE, const Tensor& bias_E, const Tensor& change_E, int64_t k);

struct SettlingChecks {
  double deviation = 0;    ///< max_e |A_e - L| / L in the last quarter of the steps
  bool is_broken = false;  ///< that is more than one step changed a load by
};

/// So many steps, each by change_of(load_E, number of the step from 0), on scores that stay as they are.
SettlingChecks check_settling(const Tensor& score_NE, Tensor bias_E, int64_t k, int64_t steps,
                              const std::function<Tensor(const Tensor&, int64_t)>& change_of);

}  // namespace collegium::route
