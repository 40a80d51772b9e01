#include "collegium/kernels/token_sums.h"

#include <ATen/ATen.h>

#include "collegium/kernels/cuda_kernels.h"
#include "collegium/kernels/work.h"

namespace collegium::kernels {

Tensor token_sums(const Tensor& rows_AD, const Tensor& gate_A, const Tensor& token_A, int64_t n_tokens) {
  if (rows_AD.is_cuda()) return token_sums_by_bags(rows_AD, gate_A, token_A, n_tokens);
  const auto type = rows_AD.scalar_type(), wide = wide_type(type);
  const auto counts_A = token_A.lt(n_tokens).nonzero().flatten();
  auto sum_ND = at::zeros({n_tokens, rows_AD.size(1)}, rows_AD.options().dtype(wide));
  auto counted_AD = rows_AD.index_select(0, counts_A).to(wide);
  if (gate_A.defined()) counted_AD = counted_AD * gate_A.index_select(0, counts_A).to(wide).unsqueeze(1);
  return sum_ND.index_add_(0, token_A.index_select(0, counts_A), counted_AD).to(type);
}

Tensor bag_sums(const Tensor& values_VD, const Tensor& index_R, const Tensor& first_B, const Tensor& weight_R) {
  const auto B = first_B.size(0);
  if (index_R.size(0) == 0 || B == 0) return at::zeros({B, values_VD.size(1)}, values_VD.options());
  if (has_cuda_kernels(values_VD, values_VD.size(1))) return cuda_bag_sums(values_VD, index_R, first_B, B, weight_R);
  const auto weight = weight_R.defined() ? weight_R.to(values_VD.scalar_type()).contiguous() : Tensor();
  return std::get<0>(at::_embedding_bag_forward_only(values_VD.contiguous(), index_R.contiguous(), first_B,
                                                     /*scale_grad_by_freq=*/false, /*mode: sum*/ 0, /*sparse=*/false,
                                                     weight));
}

// Adding rows one by one would let them arrive in any order, and would read the sums once for each. Nothing is read
// from the device here.
Tensor token_sums_by_bags(const Tensor& rows_AD, const Tensor& gate_A, const Tensor& token_A, int64_t n_tokens) {
  const auto [sorted_A, order_A] = at::sort(token_A, /*stable=*/true, /*dim=*/0, /*descending=*/false);
  // One bag more: the last one ends with the rows, and takes those that count for nobody.
  const auto first_N1 = at::searchsorted(sorted_A, at::arange(n_tokens + 1, token_A.options()));
  return bag_sums(rows_AD, order_A, first_N1, gate_A.defined() ? gate_A.index_select(0, order_A) : Tensor())
      .slice(0, 0, n_tokens);
}

}  // namespace collegium::kernels
