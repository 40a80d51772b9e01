#include "collegium/route/segments.h"

#include <ATen/ATen.h>

namespace collegium::route {

Segments segments_of(const Context& context, int64_t n_tokens, int64_t length, const at::Device& device) {
  const auto N = n_tokens;
  const auto ints = at::TensorOptions(at::kLong).device(device);
  const auto sequence_N = context.sequence_N.defined() ? context.sequence_N : at::zeros({N}, ints);
  auto key_N = sequence_N;
  if (length > 0) {
    const auto first_S = at::cumsum(at::bincount(sequence_N), 0) - at::bincount(sequence_N);
    const auto position_N = at::arange(N, ints) - first_S.index_select(0, sequence_N);
    key_N = sequence_N * (N + 1) + position_N.floor_divide(length);
  }
  const auto [unique_G, group_N, count_G] = at::unique_consecutive(key_N, /*return_inverse=*/true, true);
  return {.group_N = group_N,
          .offset_G1 = at::cat({at::zeros({1}, ints), at::cumsum(count_G, 0)}).cpu(),
          .sequence_G = length > 0 ? unique_G.floor_divide(N + 1) : unique_G};
}

}  // namespace collegium::route
