// Latent experts: routed experts that work in a narrower space. One projection takes the token there before dispatch,
// another takes the weighted sum of the experts' answers back, so weights of an expert and what is sent between devices
// shrink by D / L, and so many times more experts, of which so many times more are chosen, cost the same.
//
//   z = W_down x,   y = W_up sum_i gate_i(x) E_i(z) + shared(x)
//
// NVIDIA 2025 (Nemotron 3, LatentMoE): the router and the shared experts stay at the model width; there L = D / 4.
// Assumed: neither normalisation nor activation function around the projections.
//
// N tokens, D model width, L latent width, E experts, R rows.
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "collegium/kernels/experts.h"
#include "collegium/layer/activations.h"
#include "collegium/layer/routed_part.h"

namespace collegium::layer {
namespace {

class LatentLayer final : public MoeLayer, public Makes<LatentLayer, MoeLayer> {
 public:
  using Interface = MoeLayer;
  struct Config {
    int64_t n_experts = 8;
    int64_t d_expert = 0;
    int64_t d_latent = 0;
    int64_t n_shared = 0;
    double init_scale = 1;
    Named expert{.name = "swiglu"};
    Named router{.name = "top_k"};
    void visit(Fields& field) {
      field("n_experts", n_experts, {.help = "experts to choose from", .unit = "experts", .min = 1});
      field("d_expert", d_expert, {.help = "hidden width of one expert; 0 = 2 * d_model", .min = 0});
      field("d_latent", d_latent, {.help = "width that experts read and write; 0 = d_model / 4", .min = 0});
      field("n_shared", n_shared,
            {.help = "experts that work for every token, at the model width", .unit = "experts", .min = 0});
      field("init_scale", init_scale, {.help = "variance of the projections' first weights, times fan-in", .min = 0});
      field("expert", expert, {.help = "kind of expert", .catalogue = "experts"});
      field("router", router, {.help = "who chooses, at the model width", .catalogue = "routers"});
    }
  };

  LatentLayer(const Config& config, const Inputs& in) {
    const auto D = in.d_model, L = config.d_latent > 0 ? config.d_latent : std::max<int64_t>(1, D / 4);
    const auto width = config.d_expert > 0 ? config.d_expert : 2 * D;
    auto narrow = in;
    narrow.d_model = L;
    experts_ = make_experts(config.expert, config.n_experts, width, narrow);
    router_ = make_router(config.router, config.n_experts, in, in.random.at("router"));
    // Shared experts always work together, so they are one network of their summed width.
    if (config.n_shared > 0) shared_ = make_experts(config.expert, 1, config.n_shared * width, in, "shared");
    const auto normal = [&](std::string_view name, int64_t to, int64_t from) {
      const auto std = std::sqrt(config.init_scale / static_cast<double>(from));
      return in.random.at(name).normal({to, from}, std, in.options).requires_grad_(true);
    };
    probe_.down_LD = normal("down", L, D), probe_.up_DL = normal("up", D, L);
    probe_.experts = experts_.get();
    require_answers(*router_, config.router, probe_, config.expert);
  }

  LayerOutput forward(const Tensor& x_ND, const route::Context& context) override {
    auto here = context;
    here.experts = &probe_;
    auto routing = router_->route(x_ND, here);
    const auto dtype = x_ND.scalar_type();
    const auto z_NL = kernels::linear(x_ND, probe_.down_LD.to(dtype));
    const auto sum_NL = experts_->forward(z_NL, routing.decision);
    LayerOutput out{.y_ND = kernels::linear(sum_NL, probe_.up_DL.to(dtype)), .losses = std::move(routing.losses)};
    show_activations(out, *experts_, z_NL, routing.decision, context);
    if (shared_) {
      out.y_ND = out.y_ND + shared_->one(x_ND, 0);
      show_activations(out, *shared_, x_ND, 0, context);
    }
    out.y_ND = route::only_real(out.y_ND, context);
    show_routing(out, routing, context);
    return out;
  }
  void step() override { router_->step(); }
  LayerFacts facts() const override {
    const auto shared = shared_ ? static_cast<double>(shared_->parameters_per_expert()) : 0.0;
    const auto projections = static_cast<double>(probe_.down_LD.numel() + probe_.up_DL.numel());
    return routed_facts(*router_,
                        experts_->parameters_working(router_->facts().choices_per_token) + projections + shared);
  }
  route::Router* router() override { return router_.get(); }
  void collect(ParameterList& list) override {
    list.child("router", *router_);
    list.parameter("down", probe_.down_LD);
    list.child("experts", *experts_);
    list.parameter("up", probe_.up_DL);
    if (shared_) list.child("shared", *shared_);
  }

 private:
  // The experts as a router at the model width meets them.
  struct Probe final : route::ExpertProbe {
    Tensor one(const Tensor& x_RD, int64_t expert) override {
      return at::linear(experts->one(narrow(x_RD), expert), up_DL.to(x_RD.scalar_type()));
    }
    Tensor hidden(const Tensor& x_RD, int64_t expert) override { return experts->hidden(narrow(x_RD), expert); }
    Tensor narrow(const Tensor& x_RD) const { return at::linear(x_RD, down_LD.to(x_RD.scalar_type())); }

    Experts* experts = nullptr;
    Tensor down_LD, up_DL;
  };

  std::unique_ptr<Experts> experts_, shared_;
  std::unique_ptr<route::Router> router_;
  Probe probe_;
};

}  // namespace

extern constinit const Entry<MoeLayer> layer_latent = entry<LatentLayer>(
    {.name = "latent",
     .source = "NVIDIA 2025 (Nemotron 3), LatentMoE",
     .taxonomy = "architecture/sparse/latent",
     .summary = "routed experts work in a narrower space, between two projections they share",
     .equation = "y = W_up Σ_{e ∈ T} g_e FFN_e(z) + shared(x),  z = W_down x,  T and g by the router from x"});

}  // namespace collegium::layer
