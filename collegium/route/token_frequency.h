// Which token ids are frequent: one rule for masks by frequency and for losses on rare tokens.
#pragma once
#include <ATen/core/Tensor.h>

namespace collegium::route {

/// The fewest ids that make up at least `share` of all tokens, the more frequent first, ties to the lower id; all
/// others are rare. count_V: int64, how often each id occurs. bool [V] on the CPU, true = frequent.
at::Tensor frequent_ids(const at::Tensor& count_V, double share);

}  // namespace collegium::route
