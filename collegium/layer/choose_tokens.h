// Experts that choose tokens of a sequence: the best of the whole sequence, or, token by token, the best so far.
//
// E experts (heads, blocks), B sequences, T tokens each.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <string_view>

namespace collegium::layer {

using at::Tensor;

/// How many of n tokens an expert takes: n / sparsity rounded down, at least `least`, at most n.
struct TokenQuota {
  double sparsity = 1;
  int64_t least = 1;
  int64_t of(int64_t n) const;
};

/// Who is compared with whom.
enum class TokenChoice {
  sequence,  ///< expert choice (Zhou 2022): the best of all tokens. Not causal: later tokens decide, too
  so_far     ///< a token is taken when it is among the best quota.of(n) of the n tokens up to it, and fewer than that
             ///< were taken before. Causal, decided once, never more than quota.of(T) in all
};
std::span<const std::string_view> enum_names(TokenChoice);

/// bool [E, B, T]: which tokens each expert takes. Ties go to the earlier token; masked tokens (mask_BT: bool, true = a
/// real token; undefined = all real) are neither taken nor counted.
Tensor choose_tokens(TokenChoice choice, const Tensor& score_EBT, const Tensor& mask_BT, const TokenQuota& quota);

/// so_far, going on from P tokens seen before with these scores, count_EB of which were taken.
Tensor choose_more(const Tensor& score_EBT, const Tensor& past_score_EBP, const Tensor& count_EB,
                   const TokenQuota& quota);

/// Places of the taken tokens, in order of the text; K = the largest count.
struct TakenTokens {
  Tensor index_EBK;  ///< int64 in [0, T); beyond the count, tokens that were not taken
  Tensor count_EB;   ///< int64
  Tensor live_EBK;   ///< bool: below the count
};
TakenTokens places_of(const Tensor& chosen_EBT);

}  // namespace collegium::layer
