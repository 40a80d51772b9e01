// Shared by the tests of attention: building one, and what it is told of its sequences.
//
// B sequences, T tokens each, N = B T, D model width, H query heads, G key-value heads.
#pragma once
#include "collegium/layer/attention.h"
#include "tests/support/routing.h"

namespace collegium::test {

struct AttentionSizes {
  int64_t D = 8, H = 2, G = 2;
};

inline std::unique_ptr<layer::Attention> make_attention(const Named& named, AttentionSizes s = {},
                                                        at::ScalarType type = at::kDouble, uint64_t seed = 1) {
  return find(layer::attentions(), named, "attention")
      .make(named, {.d_model = s.D,
                    .n_heads = s.H,
                    .n_kv_heads = s.G,
                    .init_std = 0.6,
                    .branch_std = 0.6,
                    .random = Random(seed),
                    .options = type,
                    .corpus = {}});
}

inline layer::AttentionContext attention_context(const layer::Attention& made, int64_t B, int64_t T,
                                                 at::ScalarType type = at::kDouble, int64_t past = 0) {
  const auto d = made.facts(T).d_head;
  return {.B = B, .T = T, .past = past, .rotation = kernels::rotation(past, T, d, 100, type)};
}

inline route::Context sequences(int64_t B, int64_t T, route::Phase phase = route::Phase::evaluate) {
  return {.phase = phase, .sequence_N = at::arange(B).repeat_interleave(T), .n_sequences = B, .random = Random(7)};
}

/// Tells both contexts which tokens are real; mask_BT: bool [B, T].
inline void set_mask(route::Context& routing, layer::AttentionContext& here, const Tensor& mask_BT) {
  routing.mask_N = mask_BT.reshape({-1});
  const auto gaps = mask_BT.slice(1, 1).logical_and(mask_BT.slice(1, 0, -1).logical_not());
  here.key_mask_BT = gaps.any().item<bool>() ? mask_BT : Tensor();
}

/// One pass over whole sequences.
inline layer::AttentionOutput attend_all(layer::Attention& made, const Tensor& x_BTD,
                                         route::Phase phase = route::Phase::evaluate) {
  const auto B = x_BTD.size(0), T = x_BTD.size(1);
  return made.forward(x_BTD.reshape({B * T, x_BTD.size(2)}), sequences(B, T, phase),
                      attention_context(made, B, T, x_BTD.scalar_type() == at::kDouble ? at::kDouble : at::kFloat));
}

}  // namespace collegium::test
