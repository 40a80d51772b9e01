// Experts: E feed-forward networks in fused storage, with a view of each one.
//
// N tokens, D model width, E experts, I expert width, R assignments sorted by expert.
#pragma once
#include <ATen/core/Tensor.h>

#include "collegium/base/catalogue.h"
#include "collegium/base/parameters.h"
#include "collegium/base/random.h"
#include "collegium/route/context.h"
#include "collegium/route/decision.h"

namespace collegium::layer {

using at::Tensor;

class Experts : public route::ExpertProbe {
 public:
  using Interface = Experts;
  struct Inputs {
    int64_t n_experts = 0, d_model = 0, d_expert = 0;
    int64_t n_together = 1;  ///< experts that are slices of one block: the way back starts with their joint fan-in
    Random random{0};
    at::TensorOptions options;
  };
  struct Claims {
    std::vector<std::pair<std::string, std::string>> describe() const { return {}; }
  };
  struct View {
    std::string name;
    Tensor tensor;  ///< shares the fused storage: writing it changes the expert
  };

  /// y_ND = sum over the kept assignments of gate * expert(x), fused. Weights are used in x's dtype.
  virtual Tensor forward(const Tensor& x_ND, const route::Decision& decision) = 0;
  /// The experts applied to rows that are already gathered and sorted: rows offset[e] to offset[e+1] by expert e.
  virtual Tensor rows(const Tensor& x_RD, const Tensor& offset_E1) = 0;
  // one(x_RD, expert) of ExpertProbe is the plain version that the fused ones are held equal to.
  /// Views of one expert's weights over the fused storage, for adapters, quantisation and pruning.
  virtual std::vector<View> view(int64_t expert) = 0;
  virtual void collect(ParameterList& list) = 0;
  /// That a row meets in one expert.
  virtual int64_t parameters_per_expert() const = 0;
  /// Of these, what all experts share: `forward` takes a token through them once, `rows` each row.
  virtual int64_t parameters_shared() const { return 0; }
  /// That a token meets in `forward` with so many experts a token: half of the FLOPs, too.
  double parameters_working(double choices) const {
    const auto shared = static_cast<double>(parameters_shared());
    return choices * (static_cast<double>(parameters_per_expert()) - shared) + shared;
  }
};

/// ExpertProbe::predict_units from the weights into the units.
route::UnitPrediction predict_units(const Tensor& x_ND, const Tensor& up_EID);

/// The hidden units of all experts side by side: zero where the token's experts do not have the unit. [N, E I]
Tensor wide_hidden(Experts& experts, const Tensor& x_ND, const route::Decision& decision);

/// The same as `forward`, written as a loop over the experts with ordinary autograd.
Tensor forward_loop(Experts& experts, const Tensor& x_ND, const route::Decision& decision);

/// Every kind of expert.
Entries<Experts> experts();

}  // namespace collegium::layer
