// Scores of a token mixed with those of the earlier tokens of its sequence.
//
// N tokens, T tokens of one sequence, E experts.
#pragma once
#include "collegium/route/stages.h"

namespace collegium::route {

/// What the numbers between two tokens are before they are normalised.
enum class MixBy {
  logit,  ///< weights are their softmax
  share   ///< weights are their shares of the sum; numbers >= 0
};

/// [T, E]: row t is sum over s <= t of weight_ts score_s, with weights normalised over the real tokens s <= t. Entries
/// above the diagonal are not read. A token without any weight keeps its own scores. Scores are >= 0; a mixture of
/// equal ones is that one, to the bit.
/// real_T: bool, undefined = all real; masked tokens are mixed into nothing.
/// On the CPU a row does not depend, to the bit, on later tokens or on the number of threads. Differentiable once in
/// both arguments, which have one type, float or double.
Tensor mix_earlier(const Tensor& between_TT, const Tensor& score_TE, const Tensor& real_T, MixBy by);

namespace plain {
/// The same with ordinary torch operations.
Tensor mix_earlier(const Tensor& between_TT, const Tensor& score_TE, const Tensor& real_T, MixBy by);
}  // namespace plain

/// First row of each sequence and the end of the last: n_sequences + 1 numbers.
std::vector<int64_t> sequence_offsets(const Context& context, int64_t n_tokens);

}  // namespace collegium::route
