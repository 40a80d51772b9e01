#include "collegium/route/gather.h"

#include <ATen/ATen.h>

namespace collegium::route {

Tensor gather_scores(const Tensor& score_NE, const Tensor& token_R, const Tensor& expert_R) {
  return score_NE.reshape({-1}).index_select(0, token_R * score_NE.size(1) + expert_R);
}

}  // namespace collegium::route
