// Softmax and logsumexp over rows of scores, the same bits for a row in whatever company it comes.
//
// Legend: N tokens, E experts.
#pragma once
#include <ATen/core/Tensor.h>

namespace collegium::kernels {

using at::Tensor;

/// exp(logit) over its sum in each row. On the CPU a row depends, to the bit, on nothing but itself. -infinity gives 0;
/// a row of nothing else, or with a NaN or +infinity, gives NaNs. Differentiable, twice too. float and double [N, E] on
/// the CPU take the loop, all else the plain version.
Tensor softmax(const Tensor& logit_NE);

/// log(sum(exp(logit))) of each row, [N]; as above.
Tensor log_sum_exp(const Tensor& logit_NE);

namespace plain {
Tensor softmax(const Tensor& logit_NE);
Tensor log_sum_exp(const Tensor& logit_NE);
}  // namespace plain

}  // namespace collegium::kernels
