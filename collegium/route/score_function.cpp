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

namespace {

// Logits that would give these scores. A softmax's are known but for a constant, which changes neither spread nor
// softmax.
Tensor implied_logits(const Tensor& score_NE, ScoreKind kind) {
  constexpr double kLeast = 1e-30, kMost = 1 - 1e-7;
  if (kind == ScoreKind::softmax) return score_NE.clamp_min(kLeast).log();
  if (kind == ScoreKind::sigmoid) return score_NE.clamp(kLeast, kMost).logit();
  return score_NE;
}

}  // namespace

void disturb(Scores& scores, double noise, const Random& random) {
  if (!scores.score_NE.defined() || scores.kind == ScoreKind::none) return;
  const auto known_NE = scores.logit_NE.defined() ? scores.logit_NE : implied_logits(scores.score_NE, scores.kind);
  auto open_NE = scores.open_NE.defined() ? scores.open_NE : known_NE.gt(kClosedLogit / 2);
  if (scores.n_open > 0)
    open_NE = open_NE.logical_and(at::arange(open_NE.size(1), open_NE.options().dtype(at::kLong)).lt(scores.n_open));
  const auto n_N1 = open_NE.sum(1, /*keepdim=*/true).clamp_min(1);
  const auto mean_N1 = known_NE.masked_fill(open_NE.logical_not(), 0).sum(1, true) / n_N1;
  const auto off_NE = (known_NE - mean_N1).masked_fill(open_NE.logical_not(), 0);
  const auto spread_N1 = (off_NE.square().sum(1, true) / n_N1).sqrt();
  const auto plain = known_NE.options().requires_grad(false);
  const auto drawn_NE = random.normal(known_NE.sizes(), 1, plain);
  const auto more_NE = (drawn_NE * spread_N1 * noise).masked_fill(open_NE.logical_not(), 0);
  const auto moved_NE = implied_logits(scores.score_NE, scores.kind);
  if (scores.kind == ScoreKind::softmax)
    scores.score_NE = (moved_NE + more_NE).softmax(1) * scores.score_NE.sum(1, true);
  else if (scores.kind == ScoreKind::sigmoid)
    scores.score_NE = (moved_NE + more_NE).sigmoid();
  else  // ReLU tells nothing of how far below zero a logit is: it is known only where the scorer gives it
    scores.score_NE = ((scores.logit_NE.defined() ? scores.logit_NE : moved_NE) + more_NE).relu();
  if (scores.logit_NE.defined()) scores.logit_NE = scores.logit_NE + more_NE;
}

}  // namespace collegium::route
