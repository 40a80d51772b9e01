// A router's product in blocks of tokens whose logits are used while they are in the cache.
//
// Legend: N tokens, D model width, E experts.
#pragma once
#include <algorithm>
#include <cstdint>

#include "collegium/kernels/work.h"

namespace collegium::kernels {

/// Tokens that are worth waking a thread for.
inline int64_t router_grain(int64_t width, int64_t n_experts) {
  return 1 + 65536 / (1 + width * n_experts);
}

/// Writes the logits of tokens [begin, end) to logit [N, E] and calls done(first, m) after each block of m tokens.
template <class S, class Done>
void logits_in_blocks(const S* x, const S* weight, int64_t width, int64_t n_experts, int64_t begin, int64_t end,
                      S* logit, const Done& done) {
  constexpr int64_t block = 64;
  const auto& loop = loops<S>();
  const S* row[block];
  const Scratch<Wide<S>> scratch(loop.linear_scratch(width));
  for (int64_t n = begin; n < end; n += block) {
    const int64_t m = std::min(block, end - n);
    for (int64_t i = 0; i < m; ++i) row[i] = x + (n + i) * width;
    loop.linear(row, m, weight, width, n_experts, width, logit + n * n_experts, n_experts, scratch.get());
    done(n, m);
  }
}

}  // namespace collegium::kernels
