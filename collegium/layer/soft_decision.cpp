#include "collegium/layer/soft_decision.h"

#include <ATen/ATen.h>

#include <limits>

namespace collegium::layer {

route::Decision soft_decision(const Tensor& share_NE, const route::Context& context) {
  const auto N = share_NE.size(0), E = share_NE.size(1);
  const auto ints = share_NE.options().dtype(at::kLong);
  auto token_A = at::arange(N, ints).repeat_interleave(E);
  auto expert_A = at::arange(E, ints).repeat({N});
  auto rank_A = share_NE.argsort(/*stable=*/true, 1, true).argsort(int64_t{1}, false).reshape({-1});
  auto score_A = share_NE.reshape({-1});
  if (context.mask_N.defined()) {
    const auto real = context.mask_N.index_select(0, token_A).nonzero().flatten();
    for (auto* t : {&token_A, &expert_A, &rank_A, &score_A}) *t = t->index_select(0, real);
  }
  const auto d = route::Decision::make(
      {token_A, expert_A, rank_A, score_A, at::full_like(score_A, std::numeric_limits<double>::infinity())}, N, E);
  return d.with_gates(d.score_R());
}

}  // namespace collegium::layer
