#include "collegium/route/first_expert.h"

#include <ATen/ATen.h>

#include <limits>

namespace collegium::route {

Tensor first_expert(const Decision& d) {
  const auto N = d.n_tokens(), E = d.n_experts();
  const auto none_N = at::full({N}, -1, d.token_R().options());
  if (d.n_kept() == 0) return none_N;
  // Rows are sorted by expert, so among equal gates of one token the first row is the lowest expert.
  const auto gate_R = d.gate_R().detach().to(at::kDouble);
  const auto best_N = at::full({N}, -std::numeric_limits<double>::infinity(), gate_R.options())
                          .scatter_reduce(0, d.token_R(), gate_R, "amax");
  const auto is_best_R = gate_R.eq(best_N.index_select(0, d.token_R()));
  const auto candidate_R = at::where(is_best_R, d.expert_R(), at::full_like(d.expert_R(), E));
  const auto first_N = at::full({N}, E, d.token_R().options()).scatter_reduce(0, d.token_R(), candidate_R, "amin");
  return at::where(first_N.eq(E), none_N, first_N);
}

}  // namespace collegium::route
