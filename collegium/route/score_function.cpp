#include "collegium/route/score_function.h"

#include <ATen/ATen.h>

namespace collegium::route {

Tensor steady_sigmoid(const Tensor& z) {
  return at::stack({z, at::zeros_like(z)}, -1).softmax(-1).select(-1, 0);
}

Tensor score_function(const Tensor& logit_NE, ScoreKind kind) {
  return kind == ScoreKind::softmax   ? logit_NE.softmax(-1)
         : kind == ScoreKind::sigmoid ? steady_sigmoid(logit_NE)
                                      : logit_NE.relu();
}

}  // namespace collegium::route
