// Language models: tokens in, hidden states out, with what their MoE layers decided.
//
// B sequences, T tokens each, N = B T, D model width, V vocabulary, L layers.
#pragma once
#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "collegium/base/catalogue.h"
#include "collegium/base/parameters.h"
#include "collegium/layer/layer.h"

namespace collegium::model {

using at::Tensor;

struct ModelContext {
  route::Phase phase = route::Phase::evaluate;
  Tensor mask_BT;                       ///< bool, true = a real token; undefined = all real
  Random random{0};                     ///< noise of this step
  at::ScalarType compute = at::kFloat;  ///< kFloat, kBFloat16 or kDouble; routers stay in float32
  bool record = false;                  ///< keep the decisions of soft layers too
};

/// Keys and values of the tokens seen so far, for generation.
struct KeyValueCache {
  std::vector<Tensor> key_BHTd, value_BHTd;  ///< one a layer; undefined before the first token
  int64_t length = 0;
};

/// What a layer with experts saw and compared, without gradient.
struct LayerRecord {
  Tensor input_ND;          ///< what it routed
  Tensor score_NE, bias_E;  ///< undefined where there is none
};

struct ModelOutput {
  Tensor hidden_ND;                        ///< after the last norm
  std::vector<route::LossTerm> losses;     ///< of all layers, names prefixed "layer 2: "
  std::vector<route::Decision> decisions;  ///< one for each layer with experts (see moe_layers)
  std::vector<LayerRecord> records;        ///< as many, if context.record
};

/// Sizes and costs for the plan.
struct ModelFacts {
  int64_t n_layers = 0, d_model = 0, vocabulary = 0;
  std::vector<int64_t> moe_layers;  ///< indices of layers with experts
  std::vector<int64_t> n_experts;   ///< of those layers
  double parameters_total = 0;
  double parameters_active = 0;           ///< that one token meets (tied embeddings counted once)
  double flops_per_token = 0;             ///< forward, at context length `context`
  double activation_bytes_per_token = 0;  ///< kept for the backward pass; an estimate
  bool is_causal = true;
  route::ContextNeeds needs;        ///< what its routers take besides hidden states
  bool reads_other_tokens = false;  ///< a router mixes tokens: decoding needs whole sequences, not a cache
};

class LanguageModel {
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
  virtual ~LanguageModel() = default;
  /// token_BT: int64 [B, T]. With a cache, the tokens continue it.
  virtual ModelOutput forward(const Tensor& token_BT, const ModelContext& context, KeyValueCache* cache = nullptr) = 0;
  /// Scores of the next token, [N, V].
  virtual Tensor logits(const Tensor& hidden_ND) const = 0;
  /// After each optimiser step.
  virtual void step() = 0;
  virtual ModelFacts facts(int64_t context_length) = 0;
  virtual void collect(ParameterList& list) = 0;
};

/// Negative log-likelihood of each target in nats, float32 [N].
Tensor token_losses(const LanguageModel& model, const Tensor& hidden_ND, const Tensor& target_N);
/// The same from the scores of the next token.
Tensor token_losses(const Tensor& logit_NV, const Tensor& target_N);

/// Every kind of language model.
Entries<LanguageModel> language_models();

}  // namespace collegium::model
