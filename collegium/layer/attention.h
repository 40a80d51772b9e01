// The place in a model where tokens read each other: attention of any kind behind one interface.
//
// B sequences, T tokens each, N = B T, D model width, H query heads, G key-value heads, d head width.
#pragma once
#include <ATen/core/Tensor.h>

#include <optional>

#include "collegium/base/catalogue.h"
#include "collegium/base/parameters.h"
#include "collegium/base/random.h"
#include "collegium/kernels/rotary.h"
#include "collegium/route/router.h"

namespace collegium::layer {

using at::Tensor;

/// What one layer's attention keeps of the tokens seen so far, for generation. The layout is the attention's own;
/// empty before the first token.
struct AttentionCache {
  std::vector<Tensor> tensors;
};

/// What attention may know besides the hidden states and what every layer knows (route::Context: mask, sequences,
/// phase, noise).
struct AttentionContext {
  int64_t B = 0, T = 0;
  int64_t past = 0;            ///< tokens of each sequence that are in the cache already
  kernels::Rotation rotation;  ///< of positions past … past + T - 1, heads of width facts().d_head
  AttentionCache* cache = nullptr;
  bool needs_probabilities = false;  ///< this layer's routers read attention_BTT
  /// bool [B, T]; undefined where padding comes last in every sequence: causal attention never looks at it then.
  Tensor key_mask_BT;
};

struct AttentionOutput {
  Tensor y_ND;           ///< of masked tokens: any numbers, which nothing reads
  Tensor attention_BTT;  ///< mean over heads, [b, t, s] = how much t looks at s; only if needs_probabilities
  std::vector<route::LossTerm> losses;
  std::optional<route::Decision> decision;  ///< where heads are experts: present if facts().n_experts > 0
  Tensor score_NE, bias_E;                  ///< as in LayerOutput
  route::Reasons reasons;                   ///< as in LayerOutput
};

/// Costs are those of a whole sequence of `context_length` tokens, divided by its tokens.
struct AttentionFacts {
  int64_t d_head = 0;            ///< width that rotary positions turn
  int64_t n_experts = 0;         ///< heads that a router chooses for each token; 0 = none is chosen
  double parameters_active = 0;  ///< parameters that one token meets, routers included
  double flops_per_token = 0;    ///< forward, multiply and add counted as two
  double cache_bytes_per_token = 0;
  double activations_per_token = 0;  ///< numbers kept for the backward pass; an estimate
  bool is_causal = true;
  bool reads_other_tokens = false;  ///< decoding token by token would decide otherwise: there is no cache
  bool gives_probabilities = true;  ///< attention_BTT is there if asked for
  route::ContextNeeds needs;
  int64_t n_null = 0;        ///< heads that do no work, beside those that do
  double fixed_choices = 0;  ///< what every token asks for, such heads among it; 0 = not the same for all
};

class Attention {
 public:
  using Interface = Attention;
  struct Inputs {
    int64_t d_model = 0, n_heads = 1, n_kv_heads = 1;
    double init_std = 0.02;    ///< of projections
    double branch_std = 0.02;  ///< of what writes into the residual stream
    Random random{0};          ///< the layer's
    at::TensorOptions options;
    route::Corpus corpus;
  };
  struct Claims {
    bool has_exact_gradient = true;  ///< false = some gradient is an estimate
    std::vector<std::pair<std::string, std::string>> describe() const {
      return {{"exact gradient", has_exact_gradient ? "yes" : "no"}};
    }
  };
  virtual ~Attention() = default;
  /// x_ND: [N, D], sequence after sequence, N = here.B * here.T. `y_ND` has its shape and dtype. With here.cache the
  /// tokens follow the here.past ones that it holds, and are added to it.
  virtual AttentionOutput forward(const Tensor& x_ND, const route::Context& routing, const AttentionContext& here) = 0;
  /// After each optimiser step.
  virtual void step() {}
  /// `dtype`: what the cache is kept in.
  virtual AttentionFacts facts(int64_t context_length, at::ScalarType dtype = at::kFloat) const = 0;
  virtual route::Router* router() { return nullptr; }
  virtual void collect(ParameterList& list) = 0;
};

/// Every kind of attention.
Entries<Attention> attentions();

}  // namespace collegium::layer
