// Routed experts: a router decides, the chosen experts work, shared experts work for every token (DeepSeekMoE:
// their output is added as it is).
//
// N tokens, D model width, E experts.
#include <ATen/ATen.h>

#include <array>

#include "collegium/layer/experts.h"
#include "collegium/layer/layer.h"

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

  RoutedLayer(const Config& config, const Inputs& in) : dispatch_(config.dispatch) {
    const auto d_expert = config.d_expert > 0 ? config.d_expert : 2 * in.d_model;
    const auto& kind = find(layer::experts(), config.expert, "expert");
    const auto make = [&](int64_t count, int64_t width, std::string_view stream) {
      return kind.make(config.expert, {.n_experts = count,
                                       .d_model = in.d_model,
                                       .d_expert = width,
                                       .random = in.random.at(stream),
                                       .options = in.options});
    };
    experts_ = make(config.n_experts, d_expert, "experts");
    // Shared experts always work together, so they are one network of their summed width.
    if (config.n_shared > 0) shared_ = make(1, config.n_shared * d_expert, "shared");
    router_ = find(route::routers(), config.router, "router")
                  .make(config.router, {.d_model = in.d_model,
                                        .n_experts = config.n_experts,
                                        .random = in.random.at("router"),
                                        .options = in.options,
                                        .corpus = in.corpus});
  }

  LayerOutput forward(const Tensor& x_ND, const route::Context& context) override {
    auto here = context;
    here.experts = experts_.get();
    auto routing = router_->route(x_ND, here);
    LayerOutput out;
    out.y_ND = dispatch_ == Dispatch::fused ? experts_->forward(x_ND, routing.decision)
                                            : forward_loop(*experts_, x_ND, routing.decision);
    if (shared_) out.y_ND = out.y_ND + shared_->one(x_ND, 0);
    out.losses = std::move(routing.losses);
    out.decision = std::move(routing.decision);
    out.carried_NH = routing.scores.carried_NH;
    if (context.record) {
      if (routing.scores.score_NE.defined()) out.score_NE = routing.scores.score_NE.detach();
      if (routing.bias_E.defined()) out.bias_E = routing.bias_E.detach();
    }
    return out;
  }
  void step() override { router_->step(); }
  LayerFacts facts() const override {
    const auto router = router_->facts();
    const auto each = static_cast<double>(experts_->parameters_per_expert());
    const auto shared = shared_ ? static_cast<double>(shared_->parameters_per_expert()) : 0.0;
    const auto working = router.choices_per_token * each + shared;
    return {.n_experts = router_->n_experts(),
            .parameters_active = working + router.flops_per_token / 2,
            .flops_per_token = 2 * working + router.flops_per_token,
            .is_causal = router.is_causal,
            .reads_other_tokens = router.reads_other_tokens,
            .needs = router.needs};
  }
  route::Router* router() override { return router_.get(); }
  void collect(ParameterList& list) override {
    list.child("router", *router_);
    list.child("experts", *experts_);
    if (shared_) list.child("shared", *shared_);
  }

 private:
  Dispatch dispatch_;
  std::unique_ptr<route::Router> router_;
  std::unique_ptr<Experts> experts_, shared_;
};

}  // namespace

extern constinit const Entry<MoeLayer> layer_routed =
    entry<RoutedLayer>({.name = "routed",
                        .paper = 106,
                        .source = "Shazeer 2017, eq. 1; Fedus 2021; shared experts: Dai 2024 (DeepSeekMoE), eq. 9",
                        .taxonomy = "architecture/sparse",
                        .summary = "a router decides, the chosen experts work, shared ones always do"});

}  // namespace collegium::layer
