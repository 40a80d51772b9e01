#include "collegium/route/gather.h"

#include <ATen/ATen.h>

namespace collegium::route {

Tensor gather_scores(const Tensor& score_NE, const Tensor& token_R, const Tensor& expert_R) {
  return score_NE.reshape({-1}).index_select(0, token_R * score_NE.size(1) + expert_R);
}

Assignments token_choices(const Tensor& expert_NK, const Tensor& score_NK, const Tensor& margin_NK,
                          const Tensor& mask_N, const Tensor& asks_NK) {
  const auto N = expert_NK.size(0), K = expert_NK.size(1);
  const auto ints = expert_NK.options();
  const auto token_NK = at::arange(N, ints).unsqueeze(1).expand({N, K});
  const auto rank_NK = at::arange(K, ints).unsqueeze(0).expand({N, K});
  auto open_NK = asks_NK;
  if (mask_N.defined()) {
    const auto real_NK = mask_N.unsqueeze(1).expand({N, K});
    open_NK = open_NK.defined() ? open_NK.logical_and(real_NK) : real_NK;
  }
  const auto asked = open_NK.defined() ? open_NK.reshape({-1}).nonzero().flatten() : Tensor();
  const auto of = [&](const Tensor& t_NK) {
    const auto flat = t_NK.reshape({-1});
    return asked.defined() ? flat.index_select(0, asked) : flat;
  };
  return {of(token_NK), of(expert_NK), of(rank_NK), of(score_NK), of(margin_NK)};
}

}  // namespace collegium::route
