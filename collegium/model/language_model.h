// Language models: tokens in, hidden states out, with what their MoE layers decided.
//
// B sequences, T tokens each, N = B T, D model width, V vocabulary.
#pragma once
#include <ATen/core/Tensor.h>

#include <vector>

#include "collegium/layer/attention.h"
#include "collegium/model/model.h"

namespace collegium::model {

/// What a layer that works for some tokens only (mixture of depths) knows of those before.
struct PassedTokens {
  Tensor score_1BP;  ///< scores of all; undefined where none are compared
  Tensor count_1B;   ///< tokens taken, int64; undefined before the first
};

/// What attention keeps of the tokens seen so far (keys and values), for generation.
struct KeyValueCache {
  std::vector<layer::AttentionCache> layers;
  std::vector<PassedTokens> passed;  ///< of layers that work for some tokens only
  int64_t length = 0;
};

class LanguageModel : public Model {
 public:
  using Interface = LanguageModel;
  struct Inputs {
    int64_t vocabulary = 0;
    Tensor count_V;  ///< int64, how often each token id occurs in the training text; undefined = unknown
    Random random{0};
    at::TensorOptions options;
  };
  struct Claims {
    std::vector<std::pair<std::string, std::string>> describe() const { return {}; }
  };
  /// token_BT: int64 [B, T]. With a cache, the tokens continue it.
  virtual ModelOutput forward(const Tensor& token_BT, const ModelContext& context, KeyValueCache* cache = nullptr) = 0;
  /// Scores of the next token, [N, V].
  virtual Tensor logits(const Tensor& hidden_ND) const = 0;
};

/// Negative log-likelihood of each target in nats, float32 [N].
Tensor token_losses(const LanguageModel& model, const Tensor& hidden_ND, const Tensor& target_N);
/// The same from the scores of the next token.
Tensor token_losses(const Tensor& logit_NV, const Tensor& target_N);

/// Every kind of language model.
Entries<LanguageModel> language_models();

}  // namespace collegium::model
