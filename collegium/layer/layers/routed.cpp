// Routed experts: a router decides, the chosen experts work, shared experts work for every token (DeepSeekMoE:
// their output is added as it is).
//
// N tokens, D model width, E experts.
#include <ATen/ATen.h>

#include <array>

#include "collegium/layer/routed_part.h"

namespace collegium::layer {
namespace {

enum class Dispatch { fused, loop };
std::span<const std::string_view> enum_names(Dispatch) {
  static constexpr std::array<std::string_view, 2> names = {"fused", "loop"};
  return names;
}

class RoutedLayer final : public MoeLayer, public Makes<RoutedLayer, MoeLayer> {
 public:
  using Interface = MoeLayer;
  struct Config {
    int64_t n_experts = 8;
    int64_t d_expert = 0;
    int64_t n_shared = 0;
    Named expert{.name = "swiglu"};
    Named router{.name = "top_k"};
    Dispatch dispatch = Dispatch::fused;
    void visit(Fields& field) {
      field("n_experts", n_experts, {.help = "experts to choose from", .unit = "experts", .min = 1});
      field("d_expert", d_expert, {.help = "hidden width of one expert; 0 = 2 * d_model", .min = 0});
      field("n_shared", n_shared, {.help = "experts that work for every token, besides", .unit = "experts", .min = 0});
      field("expert", expert, {.help = "kind of expert", .catalogue = "experts"});
      field("router", router, {.help = "who chooses", .catalogue = "routers"});
      field("dispatch", dispatch, {.help = "fused kernels, or the plain loop over experts they are checked against"});
    }
  };

  RoutedLayer(const Config& config, const Inputs& in)
      : dispatch_(config.dispatch),
        part_(config.expert, config.router, config.n_experts, width(config, in), in, 1, in.pool.get()) {
    // Shared experts always work together, so they are one network of their summed width.
    if (config.n_shared > 0)
      shared_ = make_experts(config.expert, 1, config.n_shared * width(config, in), in, "shared");
  }

  LayerOutput forward(const Tensor& x_ND, const route::Context& context) override {
    auto routing = part_.route(x_ND, context);
    LayerOutput out;
    out.y_ND = dispatch_ == Dispatch::fused ? part_.experts->forward(x_ND, routing.decision)
                                            : forward_loop(*part_.experts, x_ND, routing.decision);
    if (shared_) out.y_ND = out.y_ND + shared_->one(x_ND, 0);
    out.losses = std::move(routing.losses);
    show_routing(out, routing, context);
    return out;
  }
  Tensor units(const Tensor& x_ND, const LayerOutput& done) override {
    const auto chosen_NF = wide_hidden(*part_.experts, x_ND, *done.decision);
    return shared_ ? at::cat({chosen_NF, shared_->hidden(x_ND, 0)}, 1) : chosen_NF;
  }
  void step() override { part_.router->step(); }
  LayerFacts facts() const override {
    const auto shared = shared_ ? static_cast<double>(shared_->parameters_per_expert()) : 0.0;
    return routed_facts(*part_.router, part_.parameters_working() + shared);
  }
  route::Router* router() override { return part_.router.get(); }
  void collect(ParameterList& list) override {
    part_.collect(list);
    if (shared_) list.child("shared", *shared_);
  }

 private:
  static int64_t width(const Config& config, const Inputs& in) {
    return config.d_expert > 0 ? config.d_expert : 2 * in.d_model;
  }

  Dispatch dispatch_;
  RoutedPart part_;
  std::unique_ptr<Experts> shared_;
};

}  // namespace

extern constinit const Entry<MoeLayer> layer_routed =
    entry<RoutedLayer>({.name = "routed",
                        .paper = 106,
                        .source = "Shazeer 2017, eq. 1; Fedus 2021; shared experts: Dai 2024 (DeepSeekMoE), eq. 9",
                        .taxonomy = "architecture/sparse",
                        .summary = "a router decides, the chosen experts work, shared ones always do"});

}  // namespace collegium::layer
