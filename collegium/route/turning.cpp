#include "collegium/route/turning.h"

#include <ATen/ATen.h>

#include <limits>

#include "collegium/base/error.h"

namespace collegium::route {

Tensor kth_of_others(const Tensor& t_NE, const Tensor& k_N1) {
  constexpr auto infinity = std::numeric_limits<double>::infinity();
  const auto t = t_NE.detach();
  const auto N = t.size(0), E = t.size(1);
  const auto order_NE = t.argsort(/*stable=*/true, /*dim=*/1, /*descending=*/true);
  const auto place_NE = order_NE.argsort(/*stable=*/true, /*dim=*/1, /*descending=*/false);
  // Sorted, between what nothing is above and what everything is.
  const auto sorted_NX = at::cat(
      {at::full({N, 1}, infinity, t.options()), t.gather(1, order_NE), at::full({N, 1}, -infinity, t.options())}, 1);
  const auto k = k_N1.clamp_max(E).expand({N, E});
  // One of the k largest itself: without it the next one moves up.
  return sorted_NX.gather(1, k + place_NE.lt(k).to(at::kLong));
}

Tensor kth_of_others(const Tensor& t_NE, int64_t k) {
  return kth_of_others(t_NE, at::full({t_NE.size(0), 1}, k, t_NE.options().dtype(at::kLong).requires_grad(false)));
}

std::string best_of(int64_t n, std::string_view what) {
  return n == 1 ? text("best ", what) : text(n, " best ", what, "s");
}

}  // namespace collegium::route
