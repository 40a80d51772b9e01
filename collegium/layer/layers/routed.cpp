// Routed experts: a router decides, the chosen experts work, shared experts work for every token. `shared_mix` says
// how the shared experts' output s joins that of the chosen ones r:
//
//   added     r + s                              Dai 2024 (DeepSeekMoE), eq. 9
//   gated     r + sigmoid(w . x) s               Qwen2-MoE (transformers, Qwen2MoeSparseMoeBlock)
//   averaged  (k r + n s) / (k + n)              OLMo-core for n = 1: k / (k + 1) r + 1 / (k + 1) s
//   softmax   a r + b s, (a, b) = softmax(W x)   Rajbhandari 2022 (DeepSpeed-MoE), section 4.1: residual MoE with one
//                                                expert of each, there added; the softmax is that of their code
//                                                (moe/layer.py), here without its bias
//
// w and W start at zero: nothing is preferred. `segments` = m is DeepSeekMoE's fine-grained segmentation (section 3.1):
// each expert is cut into m pieces of its width, and the router chooses m k of m E pieces; weights stay the
// router's, so where they sum to one an expert whose pieces all work counts 1 / m of the whole. Shared experts are
// counted in whole ones.
//
// N tokens, D model width, E experts, k experts a token, n shared ones.
#include <ATen/ATen.h>

#include <array>

#include "collegium/layer/activations.h"
#include "collegium/layer/routed_part.h"

namespace collegium::layer {
namespace {

enum class Dispatch { fused, loop };
std::span<const std::string_view> enum_names(Dispatch) {
  static constexpr std::array<std::string_view, 2> names = {"fused", "loop"};
  return names;
}

enum class SharedMix { added, gated, averaged, softmax };
std::span<const std::string_view> enum_names(SharedMix) {
  static constexpr std::array<std::string_view, 4> names = {"added", "gated", "averaged", "softmax"};
  return names;
}

class RoutedLayer final : public MoeLayer, public Makes<RoutedLayer, MoeLayer> {
 public:
  using Interface = MoeLayer;
  struct Config {
    int64_t n_experts = 8;
    int64_t d_expert = 0;
    int64_t n_shared = 0;
    SharedMix shared_mix = SharedMix::added;
    int64_t segments = 1;
    Named expert{.name = "swiglu"};
    Named router{.name = "top_k"};
    Dispatch dispatch = Dispatch::fused;
    void visit(Fields& field) {
      field("n_experts", n_experts, {.help = "experts to choose from", .unit = "experts", .min = 1});
      field("d_expert", d_expert, {.help = "hidden width of one expert; 0 = 2 * d_model", .min = 0});
      field("n_shared", n_shared, {.help = "experts that work for every token, besides", .unit = "experts", .min = 0});
      field("shared_mix", shared_mix,
            {.help = "how they join the chosen ones: added, gated by a sigmoid, averaged, or by a learned pair"});
      field("segments", segments,
            {.help = "pieces that each expert is cut into; the router chooses so many times more of them",
             .unit = "pieces",
             .min = 1});
      field("expert", expert, {.help = "kind of expert", .catalogue = "experts"});
      field("router", router, {.help = "who chooses", .catalogue = "routers"});
      field("dispatch", dispatch, {.help = "fused kernels, or the plain loop over experts they are checked against"});
    }
  };

  RoutedLayer(const Config& config, const Inputs& in)
      : dispatch_(config.dispatch),
        part_(config.expert, segmented(config.router, config.segments), config.n_experts * config.segments,
              piece(config, in), in, 1, in.pool.get()),
        shared_mix_(config.shared_mix),
        n_shared_(config.n_shared) {
    require(shared_mix_ == SharedMix::added || n_shared_ > 0,
            "routed: shared_mix = ", enum_names(shared_mix_)[static_cast<size_t>(shared_mix_)],
            " needs shared experts, but n_shared = 0");
    // Shared experts always work together, so they are one network of their summed width.
    if (n_shared_ > 0) shared_ = make_experts(config.expert, 1, n_shared_ * width(config, in), in, "shared");
    const int64_t rows = shared_mix_ == SharedMix::gated ? 1 : shared_mix_ == SharedMix::softmax ? 2 : 0;
    if (rows > 0) mix_XD_ = at::zeros({rows, in.d_model}, in.options).requires_grad_(true);
  }

  LayerOutput forward(const Tensor& x_ND, const route::Context& context) override {
    auto routing = part_.route(x_ND, context);
    LayerOutput out;
    out.y_ND = dispatch_ == Dispatch::fused ? part_.experts->forward(x_ND, routing.decision)
                                            : forward_loop(*part_.experts, x_ND, routing.decision);
    show_activations(out, *part_.experts, x_ND, routing.decision, context);
    if (shared_) {
      out.y_ND = mixed(x_ND, out.y_ND, shared_->one(x_ND, 0));
      show_activations(out, *shared_, x_ND, 0, context);
    }
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
    const auto mixing = mix_XD_.defined() ? static_cast<double>(mix_XD_.numel()) : 0.0;
    return routed_facts(*part_.router, part_.parameters_working() + shared + mixing);
  }
  route::Router* router() override { return part_.router.get(); }
  void collect(ParameterList& list) override {
    part_.collect(list);
    if (shared_) list.child("shared", *shared_);
    if (mix_XD_.defined()) list.parameter("shared_mix", mix_XD_, ParameterKind::embedding);
  }

 private:
  static int64_t width(const Config& config, const Inputs& in) {
    return config.d_expert > 0 ? config.d_expert : 2 * in.d_model;
  }
  static int64_t piece(const Config& config, const Inputs& in) {
    const auto whole = width(config, in);
    require(whole % config.segments == 0, "routed: experts of hidden width ", whole,
            " do not divide into segments = ", config.segments, " equal pieces");
    return whole / config.segments;
  }

  // The router that chooses `m` times as many: its field k, or that of the selector it is composed of.
  static Named segmented(const Named& router, int64_t m) {
    if (m == 1) return router;
    auto out = router;
    out.fields = find(route::routers(), router, "router").resolve(router);
    const auto multiply = [&](Table& fields) {
      auto* k = fields.find("k");
      if (!k || !std::holds_alternative<int64_t>(k->data)) return false;
      k->data = m * std::get<int64_t>(k->data);
      return true;
    };
    if (multiply(out.fields)) return out;
    if (auto* value = out.fields.find("selector")) {
      auto selector = read_named(*value, "selector");
      selector.fields = find(route::selectors(), selector, "selector").resolve(selector);
      if (multiply(selector.fields)) {
        value->data = to_table(selector);
        return out;
      }
    }
    fail(ErrorKind::usage, "routed: segments = ", m, " chooses so many times more experts, but router '", router.name,
         "' has no k to multiply");
  }

  // The chosen experts' output and the shared ones'. [N, D]
  Tensor mixed(const Tensor& x_ND, const Tensor& routed_ND, const Tensor& shared_ND) const {
    if (shared_mix_ == SharedMix::added) return routed_ND + shared_ND;
    if (shared_mix_ == SharedMix::averaged) {
      const auto k = part_.router->facts().choices_per_token, n = static_cast<double>(n_shared_);
      return (k / (k + n)) * routed_ND + (n / (k + n)) * shared_ND;
    }
    const auto dtype = route::router_dtype(x_ND);
    const auto logit_NX = at::linear(x_ND.to(dtype), mix_XD_.to(dtype));
    if (shared_mix_ == SharedMix::gated) return routed_ND + logit_NX.sigmoid().to(x_ND.scalar_type()) * shared_ND;
    const auto share_NX = logit_NX.softmax(1).to(x_ND.scalar_type());
    return share_NX.slice(1, 0, 1) * routed_ND + share_NX.slice(1, 1, 2) * shared_ND;
  }

  Dispatch dispatch_;
  RoutedPart part_;
  SharedMix shared_mix_;
  int64_t n_shared_;
  std::unique_ptr<Experts> shared_;
  Tensor mix_XD_;  // X = 1 or 2
};

}  // namespace

extern constinit const Entry<MoeLayer> layer_routed = entry<RoutedLayer>(
    {.name = "routed",
     .paper = 106,
     .source = "Shazeer 2017, eq. 1; Fedus 2021; shared experts and segments: Dai 2024 (DeepSeekMoE), section 3",
     .taxonomy = "architecture/sparse",
     .summary = "a router decides, the chosen experts work, shared ones always do",
     .equation = "y = Σ_{e ∈ T} g_e FFN_e(x) + shared(x),  T and g by the router"});

}  // namespace collegium::layer
