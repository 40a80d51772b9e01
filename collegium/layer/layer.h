// The place of a feed-forward layer in a model: routed experts, soft mixtures, or one dense network, behind one
// interface.
//
// N tokens (all sequences of the batch, flattened), D model width.
#pragma once
#include <ATen/core/Tensor.h>

#include <memory>
#include <optional>

#include "collegium/base/catalogue.h"
#include "collegium/base/parameters.h"
#include "collegium/base/random.h"
#include "collegium/route/router.h"

namespace collegium::layer {

using at::Tensor;

/// A mean that a layer states of one recorded pass, as parts that add up over passes: sum / weight.
struct Statistic {
  std::string name;
  double sum = 0, weight = 0;
};

struct LayerOutput {
  Tensor y_ND;
  std::vector<route::LossTerm> losses;
  std::optional<route::Decision> decision;  ///< absent in a dense layer, and in soft ones unless context.record
  Tensor carried_NH;        ///< for the router of the next layer with experts; undefined when there is none
  Tensor score_NE, bias_E;  ///< what was compared, without gradient; only if context.record, and where there is any
  route::Reasons reasons;   ///< what the choices turn on; only if context.explain, and where a router chooses
  std::vector<Statistic> statistics;  ///< of the pass, by distinct names; only if context.record (activations.h)
};

/// What a plan and the checks of a model need to know.
struct LayerFacts {
  int64_t n_experts = 0;          ///< 0 = dense
  double parameters_active = 0;   ///< parameters that one token meets, router included
  double flops_per_token = 0;     ///< products of a training pass forward, multiply and add counted as two
  double flops_per_pair = 0;      ///< the same per token and token of its sequence, where tokens are compared
  double flops_per_sequence = 0;  ///< the same that is done once a sequence, however long it is
  bool is_causal = true;
  bool reads_other_tokens = false;  ///< decoding token by token would decide otherwise
  route::ContextNeeds needs;
  int64_t n_null = 0;        ///< null experts, beside those that work
  double fixed_choices = 0;  ///< what every token asks for, null experts among it; 0 = not the same for all
  /// Of one token, in sequences of so many.
  double flops_at(int64_t length) const {
    const auto T = static_cast<double>(length);
    return flops_per_token + flops_per_pair * T + (length > 0 ? flops_per_sequence / T : 0);
  }
};

class ExpertPool;

class MoeLayer {
 public:
  using Interface = MoeLayer;
  struct Inputs {
    int64_t d_model = 0;
    Random random{0};
    at::TensorOptions options;
    route::Corpus corpus;
    std::shared_ptr<ExpertPool> pool;  ///< experts shared with neighbouring layers; none = the layer has its own
    std::shared_ptr<route::SharedParts> shared;  ///< what routers of the model have in common; none = it stands alone
  };
  struct Claims {
    bool has_assignment = true;      ///< tokens are assigned to experts (soft and dense layers have none)
    bool has_exact_gradient = true;  ///< false = some gradient is an estimate, as straight through a rounding
    std::vector<std::pair<std::string, std::string>> describe() const {
      return {{"assigns tokens to experts", has_assignment ? "yes" : "no"},
              {"exact gradient", has_exact_gradient ? "yes" : "no"}};
    }
  };
  virtual ~MoeLayer() = default;
  /// x_ND: [N, D], float32, bfloat16 or float64; `y_ND` has its shape and dtype, and of tokens that context.mask_N
  /// leaves out any numbers. Throws an Error where the context lacks what facts().needs names.
  virtual LayerOutput forward(const Tensor& x_ND, const route::Context& context) = 0;
  /// The layer's hidden units as those of one wide network, for x_ND and what `forward` gave for it: zero where a token
  /// does not meet the unit. [N, F]; undefined where the layer is no such network.
  virtual Tensor units(const Tensor& /*x_ND*/, const LayerOutput& /*done*/) { return {}; }
  /// After each optimiser step.
  virtual void step() {}
  virtual LayerFacts facts() const = 0;
  /// The router, where there is one.
  virtual route::Router* router() { return nullptr; }
  virtual void collect(ParameterList& list) = 0;
};

/// Every kind of layer.
Entries<MoeLayer> layers();

}  // namespace collegium::layer
