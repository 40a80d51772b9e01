// The k best experts of each token, with a stated rule for ties.
//
// Legend: N tokens, E experts, K choices.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>

namespace collegium::kernels {

using at::Tensor;

struct TopK {
  Tensor expert_NK;    ///< int64 ids, best first
  Tensor score_NK;     ///< their scores, of score_NE's type
  Tensor runner_up_N;  ///< the best score that was not chosen; -inf when K = E
};

/// The k largest scores of each row, descending; among equal scores the lower expert id comes first, which at::topk
/// does not promise. A NaN ranks above every number, as in at::sort. Nothing here carries a gradient.
/// score_NE: floating point; 1 <= k <= E. bias_E, where there is one, is rounded to its type and added to each row
/// before anything is compared: the scores that come out include it. Throws a usage Error when these do not fit.
TopK top_k(const Tensor& score_NE, int64_t k, const Tensor& bias_E = {});

namespace plain {
/// The same by a stable descending sort, on any device.
TopK top_k(const Tensor& score_NE, int64_t k, const Tensor& bias_E = {});
}  // namespace plain

}  // namespace collegium::kernels
