// Chain-of-Experts: inside one layer the token goes through the same pool of experts several times. Each step routes
// anew what the steps before made of the token, so experts talk to each other, and C(E, k)^steps chains stand where one
// step has C(E, steps k) sets of the same cost.
//
//   f_t(x) = sum_i gate_ti(x) E_i(x) + shared(x)           the pool, router of step t
//   inner:  x_t = x_(t-1) + f_t(x_(t-1)),  y = sum of f_t  every step adds to the token
//   outer:  x_t = f_t(x_(t-1)),            y = x_C         only the host's residual around the whole layer
//   both:   x_t = x_(t-1) + f_t(x_(t-1)),  y = x_C         the host's, and the layer's own input besides
//
// P020 (Wang 2025), section 3, and authors' code, modeling_coe.py: a router for each step ("use_igate"; one for all
// was worse than no chain), the same shared experts in every step, one normalisation before the first step and none
// between. There the decoder has no residual of its own around the layer (inner_residual on, outer_residual off), so
// what goes on is the normalised input plus the steps' outputs. Here the host always adds the layer's output to the
// state that it normalised; `inner` leaves the input's copy out, which makes one step an ordinary routed layer.
//
// The decision in the output is that of the first step, whose input the layer's host knows; the losses of later steps
// have the step in their names.
//
// N tokens, D model width, E experts.
#include <ATen/ATen.h>

#include <algorithm>
#include <array>

#include "collegium/layer/activations.h"
#include "collegium/layer/routed_part.h"

namespace collegium::layer {
namespace {

enum class ChainResidual { inner, outer, both };
std::span<const std::string_view> enum_names(ChainResidual) {
  static constexpr std::array<std::string_view, 3> names = {"inner", "outer", "both"};
  return names;
}

class ChainLayer final : public MoeLayer, public Makes<ChainLayer, MoeLayer> {
 public:
  using Interface = MoeLayer;
  struct Config {
    int64_t n_experts = 8;
    int64_t d_expert = 0;
    int64_t n_shared = 0;
    int64_t steps = 2;
    bool own_routers = true;
    ChainResidual residual = ChainResidual::inner;
    Named expert{.name = "swiglu"};
    Named router{.name = "top_k"};
    void visit(Fields& field) {
      field("n_experts", n_experts, {.help = "experts that every step chooses from", .unit = "experts", .min = 1});
      field("d_expert", d_expert, {.help = "hidden width of one expert; 0 = 2 * d_model", .min = 0});
      field("n_shared", n_shared,
            {.help = "experts that work for every token in every step, besides", .unit = "experts", .min = 0});
      field("steps", steps, {.help = "times that a token goes through the experts", .unit = "steps", .min = 1});
      field("own_routers", own_routers, {.help = "each step has a router of its own"});
      field("residual", residual, {.help = "each step adds to the token, only the whole layer does, or both do"});
      field("expert", expert, {.help = "kind of expert", .catalogue = "experts"});
      field("router", router, {.help = "who chooses, in each step", .catalogue = "routers"});
    }
  };

  ChainLayer(const Config& config, const Inputs& in) : config_(config) {
    const auto width = config.d_expert > 0 ? config.d_expert : 2 * in.d_model;
    experts_ = make_experts(config.expert, config.n_experts, width, in);
    // Shared experts always work together, so they are one network of their summed width.
    if (config.n_shared > 0) shared_ = make_experts(config.expert, 1, config.n_shared * width, in, "shared");
    const auto random = in.random.at("router");
    for (int64_t t = 0; t < (config.own_routers ? config.steps : 1); ++t)
      routers_.push_back(
          make_router(config.router, config.n_experts, in, t == 0 ? random : random.at(static_cast<uint64_t>(t))));
    require_answers(*routers_.front(), config.router, *experts_, config.expert);
  }

  LayerOutput forward(const Tensor& x_ND, const route::Context& context) override {
    LayerOutput out;
    auto here = context;
    here.experts = experts_.get();
    auto state_ND = x_ND;
    for (int64_t t = 0; t < config_.steps; ++t) {
      if (t > 0) here.random = context.random.at("step").at(static_cast<uint64_t>(t));
      auto routing = routers_[config_.own_routers ? static_cast<size_t>(t) : 0]->route(state_ND, here);
      here.carried_NH = routing.scores.carried_NH;
      auto step_ND = experts_->forward(state_ND, routing.decision);
      show_activations(out, *experts_, state_ND, routing.decision, context);
      if (shared_) {
        step_ND = step_ND + shared_->one(state_ND, 0);
        show_activations(out, *shared_, state_ND, 0, context);
      }
      for (auto& term : routing.losses) {
        if (t > 0) term.name = text("step ", t + 1, " ", term.name);
        out.losses.push_back(std::move(term));
      }
      if (t == 0) show_routing(out, routing, context);
      state_ND = config_.residual == ChainResidual::outer ? step_ND : state_ND + step_ND;
      if (config_.residual == ChainResidual::inner)
        out.y_ND = t == 0 ? step_ND : out.y_ND + step_ND;
      else
        out.y_ND = state_ND;
    }
    out.carried_NH = here.carried_NH;
    out.y_ND = route::only_real(out.y_ND, context);
    return out;
  }
  void step() override {
    for (auto& router : routers_) router->step();
  }
  LayerFacts facts() const override {
    const auto shared = shared_ ? static_cast<double>(shared_->parameters_per_expert()) : 0.0;
    const auto steps = static_cast<double>(config_.steps);
    const auto chosen = routers_[0]->facts().choices_per_token;
    const auto working = experts_->parameters_working(chosen) + shared;
    auto out = routed_facts(*routers_[0], working);
    out.flops_per_token *= steps, out.flops_per_pair *= steps;
    // The pool and the shared experts are the same in every step; a token that meets an expert again is counted again,
    // as far as there are others to meet.
    const auto routing = out.parameters_active - working;
    const auto met = std::min(steps * chosen, std::max(chosen, static_cast<double>(config_.n_experts)));
    out.parameters_active = experts_->parameters_working(met) + shared + routing * static_cast<double>(routers_.size());
    return out;
  }
  route::Router* router() override { return routers_[0].get(); }
  void collect(ParameterList& list) override {
    list.child("router", *routers_[0]);
    for (size_t t = 1; t < routers_.size(); ++t) list.child(text("router_", t + 1), *routers_[t]);
    list.child("experts", *experts_);
    if (shared_) list.child("shared", *shared_);
  }

 private:
  Config config_;
  std::unique_ptr<Experts> experts_, shared_;
  std::vector<std::unique_ptr<route::Router>> routers_;  // one a step, or one for all
};

}  // namespace

extern constinit const Entry<MoeLayer> layer_chain = entry<ChainLayer>(
    {.name = "chain",
     .paper = 20,
     .source = "Wang 2025 (Chain-of-Experts), section 3; authors' code, modeling_coe.py",
     .taxonomy = "architecture/sparse/composed experts",
     .summary = "a token goes through the same experts several times, routed anew in each step",
     .equation =
         "y = Σ_t f_t(x_{t-1}),  x_t = x_{t-1} + f_t(x_{t-1}),  f_t(x) = Σ_{e ∈ T} g_te FFN_e(x) + shared(x)\n"
         "g_t by the router of step t;  residual = outer: x_t = f_t(x_{t-1}), y the last;  both: y = last x_t"});

}  // namespace collegium::layer
