// Causal softmax attention: what kinds of attention share.
//
// B sequences, T tokens each, S = past + T, N = B T, D model width, H query heads, G key-value heads, d head width,
// X = (H + 2 G) d.
#pragma once
#include "collegium/layer/attention.h"

namespace collegium::layer {

/// Keys and values with those of earlier tokens before them; they become tensors `first` and `first + 1` of the cache,
/// if there is one. [B, G, S, d]
void extend(Tensor& key_BGTd, Tensor& value_BGTd, const AttentionContext& here, size_t first = 0);

/// [N, H d]. With here.needs_probabilities also the mean of the heads' probabilities, written out because torch's fused
/// attention keeps none.
Tensor attend(const Tensor& query_BHTd, const Tensor& key_BGSd, const Tensor& value_BGSd, const AttentionContext& here,
              Tensor& attention_BTT);

/// Who chooses among `n_heads` heads, for the attention called `who`. Throws a usage Error for a router that reads what
/// attention has not got.
std::unique_ptr<route::Router> make_head_router(std::string_view who, const Named& router, int64_t n_heads,
                                                const Random& random, const Attention::Inputs& in);

/// Heads that read every earlier token, with their projections: streams and parameters "qkv" and "out".
class DenseHeads {
 public:
  DenseHeads(int64_t H, int64_t G, int64_t d, const Attention::Inputs& in);
  /// [N, D]. Keys and values are tensors 0 and 1 of the cache.
  Tensor forward(const Tensor& x_ND, const AttentionContext& here, Tensor& attention_BTT) const;
  AttentionFacts facts(int64_t context_length, at::ScalarType dtype) const;
  void collect(ParameterList& list);

 private:
  int64_t H_, G_, d_;
  Tensor qkv_XD_, out_DX_;
};

}  // namespace collegium::layer
