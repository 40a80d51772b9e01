// What a routing stage may know besides the hidden states. A stage that needs one of the optional parts says so
// (`Needs`), so a layer that cannot give it is refused when the model is built, not in the middle of a run.
//
// N tokens (all sequences of the batch, flattened), B sequences of T tokens, D model width.
#pragma once
#include <ATen/core/Tensor.h>

#include <string>

#include "collegium/base/random.h"

namespace collegium::route {

using at::Tensor;

/// Why the layer runs. Balancers count only in `train`: a recomputed, evaluated or replayed pass leaves no mark.
enum class Phase { train, evaluate, recompute, replay };

/// Pre-activations of hidden units under the assumption that an expert's weights into its units are draws from one
/// normal distribution for each input: then those of a token are normal with this mean and variance.
struct UnitPrediction {
  Tensor mean_NE, variance_NE;
};

/// The experts of the layer, for stages that ask them before anything is decided (competition, coupling losses).
class ExpertProbe {
 public:
  virtual ~ExpertProbe() = default;
  /// What one expert answers, as an ordinary differentiable network. [R, D]
  virtual Tensor one(const Tensor& x_RD, int64_t expert) = 0;
  /// Its hidden activations, before the projection back to the model width. [R, I], differentiable
  virtual Tensor hidden(const Tensor& x_RD, int64_t expert) = 0;
  /// For the first n_experts; of gated experts the gate's units. Differentiable. Refused by kinds that have none.
  virtual UnitPrediction predict_units(const Tensor& x_ND, int64_t n_experts);
  virtual bool predicts_units() const { return false; }
};

/// Which of the optional parts of a Context a stage cannot do without.
struct ContextNeeds {
  bool token_ids = false, attention = false, experts = false;
  bool unit_predictions = false;  ///< of the experts: ExpertProbe::predict_units
  /// "token ids, attention": what is needed and missing in `given`; empty = nothing.
  std::string missing(const ContextNeeds& given) const;
  friend ContextNeeds operator|(const ContextNeeds& a, const ContextNeeds& b) {
    return {a.token_ids || b.token_ids, a.attention || b.attention, a.experts || b.experts,
            a.unit_predictions || b.unit_predictions};
  }
  friend bool operator==(const ContextNeeds&, const ContextNeeds&) = default;
};

struct Context {
  Phase phase = Phase::evaluate;
  Tensor token_id_N;  ///< int64 vocabulary ids; undefined where the host has none
  Tensor mask_N;      ///< bool, true = a real token; undefined = all real. Masked tokens are never routed
  Tensor sequence_N;  ///< int64 in [0, n_sequences), ascending; undefined = one sequence
  int64_t n_sequences = 1;
  Tensor attention_BTT;  ///< this layer's attention, mean over heads: [b, t, s] = how much t looks at s. [B, T, T]
  ExpertProbe* experts = nullptr;  ///< the layer's experts
  Tensor carried_NH;         ///< what the router of the layer before left in Scores::carried_NH; undefined in the first
  bool record = false;       ///< the decision will be kept: layers without an assignment describe themselves as one
  double routing_noise = 0;  ///< noise on what the scorer says, see disturb; to measure robustness
  bool explain = false;      ///< selectors say what their choices turn on (Reasons)
  bool losses = true;        ///< false = nobody reads the auxiliary losses of this pass, and none are worked out
  Random random{0};          ///< noise of this layer in this step: the same again under recompute
};

/// Whether the pass is one of training, the first time or again.
inline bool trains(const Context& context) {
  return context.phase == Phase::train || context.phase == Phase::recompute;
}

/// What of ContextNeeds is there.
ContextNeeds given(const Context& context);

/// Number of real tokens.
int64_t n_real(const Context& context, int64_t n_tokens);

/// The rows of real tokens, and zeros for masked ones. [N, X]
Tensor only_real(const Tensor& t_NX, const Context& context);

/// 1 for a real token and 0 for a masked one, with these options and without gradient. [N]
Tensor real_tokens(const Context& context, int64_t n_tokens, const at::TensorOptions& options);

}  // namespace collegium::route
