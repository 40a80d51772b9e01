// A whole routing of the commonest kinds in two passes over the tokens: scores of a product, the k best of all or of
// the best groups, weights that are shares of them. What the stages of a router do one after the other, without a table
// or a list between them.
//
// Legend: N tokens, D model width, E experts, K choices, R = N K assignments.
#pragma once
#include "collegium/kernels/assignments.h"
#include "collegium/kernels/grouped_top_k.h"
#include "collegium/kernels/router_linear.h"

namespace collegium::kernels {

/// scale * score, or scale * score / (sum of the token's chosen scores + epsilon).
struct ChoiceWeight {
  bool is_share = true;
  double scale = 1, epsilon = 0;
};

struct RoutedTopK {
  RouterScores scores;
  SortedAssignments rows;  ///< scores and margins are those of top_k or grouped_top_k: with the bias
  Tensor gate_R;
};

/// Bit for bit what router_scores, top_k (of one group) or grouped_top_k, sort_assignments and the weights of the
/// chosen scores give, their sum taken in the order of the rows. x_ND [N, D] and weight_ED [E, D]: float or double, on
/// the CPU; bias_E [E] or undefined. Nothing here carries a gradient. Throws a usage Error when these do not fit.
RoutedTopK routed_top_k(const Tensor& x_ND, const Tensor& weight_ED, ScoreFunction function, const GroupRule& rule,
                        const Tensor& bias_E, const ChoiceWeight& weight);

/// Whether routed_top_k has loops for these.
bool has_routed_top_k(const Tensor& x_ND, const Tensor& weight_ED);

namespace plain {
/// One after the other, on any device.
RoutedTopK routed_top_k(const Tensor& x_ND, const Tensor& weight_ED, ScoreFunction function, const GroupRule& rule,
                        const Tensor& bias_E, const ChoiceWeight& weight);
}  // namespace plain

}  // namespace collegium::kernels
