// Experts of two matrices with an activation between them, and no biases: down(act(up(x))). The kinds differ in the
// activation, in how wide its argument is, and in the kernel that runs them fused.
//
// N tokens, E experts, D model width, I hidden width, H = I times parts, R rows sorted by expert.
#pragma once
#include "collegium/layer/experts.h"

namespace collegium::layer {

/// Smaller than 1, since several experts add up on the residual path; Switch Transformer (Fedus 2021, section 2.4)
/// takes 0.1 and writes it as a factor of the variance too. With 0.1 the gate of a top-1 router, a small score at
/// first, leaves too little of its expert for small models to learn from.
struct FeedForwardConfig {
  double init_scale = 0.3;
  void visit(Fields& field) {
    field("init_scale", init_scale, {.help = "variance of the first weights, times their fan-in", .min = 0});
  }
};

class FeedForwardExperts : public Experts {
 public:
  using Config = FeedForwardConfig;

  /// Gathered, row by row and summed again; a kind with a fused kernel has its own.
  Tensor forward(const Tensor& x_ND, const route::Decision& decision) override;
  Tensor rows(const Tensor& x_RD, const Tensor& offset_E1) override;
  Tensor one(const Tensor& x_RD, int64_t expert) override;
  Tensor hidden(const Tensor& x_RD, int64_t expert) override;
  route::UnitPrediction predict_units(const Tensor& x_ND, int64_t n_experts) override;
  bool predicts_units() const override { return true; }
  std::vector<View> view(int64_t expert) override;
  void collect(ParameterList& list) override;
  int64_t parameters_per_expert() const override;

 protected:
  /// What a kind is. `first`: name of the first matrix, which is `parts` times the hidden width.
  struct Kind {
    std::string_view name, first;
    int64_t parts = 1;
  };
  FeedForwardExperts(const Kind& kind, const Config& config, const Inputs& in);

  /// [R, H] to [R, I], with torch's operations.
  virtual Tensor activate(const Tensor& h_RH) const = 0;
  /// The same for `rows`, with a kernel where there is one.
  virtual Tensor activate_rows(const Tensor& h_RH) const { return activate(h_RH); }

  Tensor up_EHD_, down_EDI_;

 private:
  Kind kind_;
};

}  // namespace collegium::layer
