// Attention of every token to all before it and to itself, with rotary positions and grouped key-value heads, through
// torch's fused attention; written out where routers of the layer read the probabilities.
#include <ATen/core/Tensor.h>

#include "collegium/layer/attend.h"

namespace collegium::layer {
namespace {

class FullAttention final : public Attention, public Makes<FullAttention, Attention> {
 public:
  using Interface = Attention;
  struct Config {
    void visit(Fields&) {}
  };

  FullAttention(const Config&, const Inputs& in) : heads_(in.n_heads, in.n_kv_heads, in.d_model / in.n_heads, in) {}

  AttentionOutput forward(const Tensor& x_ND, const route::Context&, const AttentionContext& here) override {
    AttentionOutput out;
    out.y_ND = heads_.forward(x_ND, here, out.attention_BTT);
    return out;
  }
  AttentionFacts facts(int64_t context_length, at::ScalarType dtype) const override {
    return heads_.facts(context_length, dtype);
  }
  void collect(ParameterList& list) override { heads_.collect(list); }

 private:
  DenseHeads heads_;
};

}  // namespace

extern constinit const Entry<Attention> attention_full = entry<FullAttention>(
    {.name = "full",
     .source = "Vaswani 2017; Su 2021 (rotary positions); Ainslie 2023 (grouped-query attention)",
     .taxonomy = "architecture/attention",
     .summary = "every token reads all before it, with grouped key-value heads",
     .equation = "y_t = Σ_h O_h Σ_{u ≤ t} softmax_u(⟨q_th, k_uh⟩ / √d) v_uh,  q and k turned by their positions"});

}  // namespace collegium::layer
