// Mixture of depths: a block of a decoder works for some tokens only, and the others pass it by.
//
// B sequences, T tokens each, N = B T, D model width, K tokens that a block takes of a sequence, M = B K.
#pragma once
#include "collegium/layer/choose_tokens.h"
#include "collegium/model/language_model.h"

namespace collegium::model {

/// Who is taken when held-out loss is measured and text is generated.
enum class DepthChoice {
  sequence,  ///< the best of all tokens, as in training; not causal
  so_far,    ///< the best so far, within the quota (layer::TokenChoice)
  predicted  ///< those of whom an auxiliary predictor thinks that they would be among the best of all
};
std::span<const std::string_view> enum_names(DepthChoice);

struct DepthConfig {
  double sparsity = 1;
  int64_t first = 1, every = 2;
  layer::TokenChoice training = layer::TokenChoice::sequence;
  DepthChoice evaluation = DepthChoice::predicted;
  double predictor = 0.01;
  void visit(Fields& field);
  bool is_routed(int64_t layer) const { return sparsity > 1 && layer >= first && (layer - first) % every == 0; }
};

/// Chooses the tokens of one block.
///
///   y_t = x_t + r_t block(taken tokens)_t  for those taken,  y_t = x_t for the others,   r = sigmoid(x w)
///
/// Raposo 2024 (Mixture-of-Depths), section 3.4, eq. 1, and section 3.5: the best by expert choice in training (an
/// eighth of the tokens in every other block), a small predictor of membership, behind a stop of the gradient, when
/// tokens come one by one. Assumed: r is a sigmoid, as the paper's predictor targets suggest; the router reads the
/// block's normalised input; the predictor has one hidden layer of D / 4.
class DepthRouter {
 public:
  DepthRouter(const DepthConfig& config, int64_t d_model, double init_std, const Random& random,
              const at::TensorOptions& options);

  struct Taken {
    layer::TakenTokens tokens;  ///< of one expert, the block
    Tensor token_M, gate_M;     ///< gates of places without a token are 0
    Tensor live_M;              ///< bool: the place has a token
    Tensor taken_N;             ///< bool
    std::vector<route::LossTerm> losses;
  };
  /// x_ND: the block's normalised input. With `before`, the tokens continue it.
  Taken take(const Tensor& x_ND, const route::Context& routing, int64_t B, int64_t T,
             PassedTokens* before = nullptr) const;

  int64_t quota(int64_t context_length) const { return quota_.of(context_length); }
  bool is_causal() const { return config_.evaluation != DepthChoice::sequence; }
  double parameters() const;
  /// Kept of every token for generation, besides keys and values of those taken.
  double cache_bytes_per_token() const { return config_.evaluation == DepthChoice::so_far ? 4 : 0; }
  void collect(ParameterList& list);

 private:
  DepthConfig config_;
  layer::TokenQuota quota_;
  Tensor router_1D_, inner_HD_, outer_1H_, bias_1_;
};

}  // namespace collegium::model
