// What every model is, whatever it reads: something with parameters that is trained, whose MoE layers decide, and
// whose costs a plan can ask for. What goes in and comes out is the business of the kinds: language_model.h,
// image_model.h.
//
// N tokens (of an image: its patches), D model width.
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
  bool explain = false;                 ///< and what choices turn on
  bool losses = true;                   ///< of the layers; false = nobody reads them: see route::Context
  double routing_noise = 0;             ///< on the routers' logits, times the spread of a token's logits
  int64_t units_of = -1;                ///< layer whose hidden units are wanted; -1 = none
};

/// What a layer with experts saw and compared, without gradient.
struct LayerRecord {
  Tensor input_ND;          ///< what it routed
  Tensor score_NE, bias_E;  ///< undefined where there is none
  route::Reasons reasons;   ///< if context.explain, where a router chooses
};

struct ModelOutput {
  Tensor hidden_ND;                        ///< after the last norm; of an image classifier one row an image
  std::vector<route::LossTerm> losses;     ///< of all layers, names prefixed "layer 2: "
  std::vector<route::Decision> decisions;  ///< one for each layer with experts (see moe_layers)
  std::vector<LayerRecord> records;        ///< as many, if context.record
  Tensor units_NF;                         ///< hidden units of layer context.units_of (MoeLayer::units)
  /// What each layer, dense ones included, states of the pass; if context.record.
  std::vector<std::vector<layer::Statistic>> statistics;
};

/// What one layer costs, or what stands around the layers. The sums of a model's are those of its ModelFacts.
struct LayerCost {
  std::string parts;                 ///< "full, routed"
  int64_t layer = -1;                ///< index; -1 = around the layers
  int64_t n_experts = 0;             ///< of the feed-forward place; 0 = dense
  int64_t n_heads = 0;               ///< heads that are experts; 0 = none is chosen
  double share = 1;                  ///< of the tokens it works for
  double parameters_total = 0;       ///< experts that layers share are counted in the first of them
  double parameters_active = 0;      ///< that one token meets on average
  double flops_per_token = 0;        ///< forward, on average
  double cache_bytes_per_token = 0;  ///< on average
};

/// Sizes and costs for the plan.
struct ModelFacts {
  int64_t n_layers = 0, d_model = 0;
  int64_t vocabulary = 0;             ///< of a language model
  std::vector<int64_t> moe_layers;    ///< indices of layers with experts; heads that are experts: n_layers + index
  std::vector<int64_t> n_experts;     ///< of those layers
  std::vector<int64_t> n_null;        ///< their null experts, which do no work
  std::vector<double> fixed_choices;  ///< what every token asks of them, null experts among it; 0 = not so many each
  double parameters_total = 0;
  double parameters_active = 0;           ///< that one token meets (tied embeddings counted once)
  double flops_per_token = 0;             ///< forward, at context length `context`
  double activation_bytes_per_token = 0;  ///< kept for the backward pass; an estimate
  double cache_bytes_per_token = 0;       ///< what generation keeps of one token, in float32, at that context length
  bool is_causal = true;
  route::ContextNeeds needs;        ///< what its routers take besides hidden states
  bool reads_other_tokens = false;  ///< a router mixes tokens: decoding needs whole sequences, not a cache
  std::vector<std::string> notes;   ///< what looks like a mistake and is not one for certain
  std::vector<LayerCost> costs;     ///< of the layers in order, then of what stands around them
  /// `facts`: of the layer with experts, or of an attention whose heads are.
  template <class Facts>
  void add_layer(int64_t layer, const Facts& facts) {
    moe_layers.push_back(layer), n_experts.push_back(facts.n_experts);
    n_null.push_back(facts.n_null), fixed_choices.push_back(facts.fixed_choices);
  }
};

/// How many numbers of `module` are trained.
template <class Module>
double numbers_of(Module& module) {
  double out = 0;
  for (const auto& p : parameters_of(module))
    if (p.trained()) out += static_cast<double>(p.tensor->numel());
  return out;
}

/// "layer 3", or "attention 3" for heads that are experts.
inline std::string layer_name(const ModelFacts& facts, int64_t layer) {
  return layer < facts.n_layers ? text("layer ", layer) : text("attention ", layer - facts.n_layers);
}

class Model {
 public:
  virtual ~Model() = default;
  /// After each optimiser step.
  virtual void step() = 0;
  /// `context_length`: tokens of a sequence, for costs that depend on it.
  virtual ModelFacts facts(int64_t context_length) = 0;
  virtual void collect(ParameterList& list) = 0;
};

}  // namespace collegium::model
