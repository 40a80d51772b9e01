// One feed-forward network for every token: the baseline, and the layers of a mixture model that do not mix.
#include <ATen/ATen.h>

#include "collegium/layer/activations.h"
#include "collegium/layer/routed_part.h"

namespace collegium::layer {
namespace {

class DenseLayer final : public MoeLayer, public Makes<DenseLayer, MoeLayer> {
 public:
  using Interface = MoeLayer;
  struct Config {
    int64_t d_hidden = 0;
    Named expert{.name = "swiglu"};
    void visit(Fields& field) {
      field("d_hidden", d_hidden, {.help = "hidden width; 0 = 4 * d_model", .min = 0});
      field("expert", expert, {.help = "kind of network", .catalogue = "experts"});
    }
  };

  DenseLayer(const Config& config, const Inputs& in) {
    const auto hidden = config.d_hidden > 0 ? config.d_hidden : 4 * in.d_model;
    network_ = make_experts(config.expert, 1, hidden, in, "network");
  }

  LayerOutput forward(const Tensor& x_ND, const route::Context& context) override {
    LayerOutput out{.y_ND = network_->one(x_ND, 0)};
    show_activations(out, *network_, x_ND, 0, context);
    return out;
  }
  Tensor units(const Tensor& x_ND, const LayerOutput&) override { return network_->hidden(x_ND, 0); }
  LayerFacts facts() const override {
    const auto parameters = static_cast<double>(network_->parameters_per_expert());
    return {.n_experts = 0, .parameters_active = parameters, .flops_per_token = 2 * parameters};
  }
  void collect(ParameterList& list) override { list.child("network", *network_); }

 private:
  std::unique_ptr<Experts> network_;
};

}  // namespace

extern constinit const Entry<MoeLayer> layer_dense =
    entry<DenseLayer>({.name = "dense",
                       .source = "Vaswani 2017, section 3.3",
                       .taxonomy = "architecture/dense",
                       .summary = "one feed-forward network for every token",
                       .equation = "y = FFN(x);  swiglu: FFN(x) = W₃ (silu(W₁ x) ⊙ W₂ x)",
                       .claims = {.has_assignment = false}});

}  // namespace collegium::layer
