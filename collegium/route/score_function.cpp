#include "collegium/route/score_function.h"

#include <ATen/ATen.h>

#include "collegium/kernels/sigmoid.h"
#include "collegium/kernels/softmax.h"

namespace collegium::route {

Tensor score_function(const Tensor& logit_NE, ScoreKind kind) {
  return kind == ScoreKind::softmax   ? kernels::softmax(logit_NE)
         : kind == ScoreKind::sigmoid ? kernels::sigmoid(logit_NE)
                                      : logit_NE.relu();
}

kernels::RouterScores linear_scores(const Tensor& x_ND, const Tensor& weight_ED, ScoreKind kind) {
  if (kind == ScoreKind::softmax) return kernels::router_scores(x_ND, weight_ED, kernels::ScoreFunction::softmax);
  if (kind == ScoreKind::sigmoid) return kernels::router_scores(x_ND, weight_ED, kernels::ScoreFunction::sigmoid);
  const auto logit_NE = kernels::router_linear(x_ND, weight_ED);
  return {logit_NE, score_function(logit_NE, kind)};
}

}  // namespace collegium::route
