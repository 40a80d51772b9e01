#include "collegium/route/score_function.h"

#include <ATen/ATen.h>

#include "collegium/kernels/sigmoid.h"

namespace collegium::route {

Tensor score_function(const Tensor& logit_NE, ScoreKind kind) {
  return kind == ScoreKind::softmax   ? logit_NE.softmax(-1)
         : kind == ScoreKind::sigmoid ? kernels::sigmoid(logit_NE)
                                      : logit_NE.relu();
}

}  // namespace collegium::route
