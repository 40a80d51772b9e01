// Autonomy-of-Experts: no router. Every expert starts on every token, and those with the largest activations go on.
// The gate projection of each expert is a product of two thin matrices; all experts compute the first half of it, the
// L2 norm of that cached activation ranks them, and the chosen ones continue from the cache:
//
//   c_e = x W_down^e,   logit_e = |c_e|,   y = sum over chosen e of gate_e * ((silu(c_e W_up^e) * x W_p^e) W_o^e)
//
// P082 (Lv 2025, Autonomy-of-Experts Models), section 3; scores are the softmax over the norms and weigh as they are
// (authors' code, AoE.py). The norms run through the stage contract, so any selector, capacity, gate and balancer
// works on them. The activations [N, E, r] are kept until the backward pass: that is the method's price.
// Assumed: rank = d_model / 4 where none is given (the paper compares several fractions of the width).
//
// N tokens, D model width, E experts, r rank, I expert hidden width, R assignments sorted by expert.
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "collegium/kernels/experts.h"
#include "collegium/layer/routed_part.h"

namespace collegium::layer {
namespace {

// Hands the experts' own scores to the stages.
class OwnScores final : public route::Scorer {
 public:
  void set(const Tensor& logit_NE) { logit_NE_ = logit_NE; }
  route::Scores score(const Tensor&, const route::Context&) override {
    route::Scores out;
    out.logit_NE = std::move(logit_NE_);
    out.score_NE = out.logit_NE.softmax(-1);
    return out;
  }
  route::ScoreKind kind() const override { return route::ScoreKind::softmax; }

 private:
  Tensor logit_NE_;
};

class AutonomousLayer final : public MoeLayer, public Makes<AutonomousLayer, MoeLayer> {
 public:
  using Interface = MoeLayer;
  struct Config {
    int64_t n_experts = 8;
    int64_t d_expert = 0;
    int64_t rank = 0;
    double init_scale = 1;
    Named selector{.name = "top_k"};
    Named capacity{.name = "unlimited"};
    Named gate{.name = "score"};
    std::vector<Named> balancers = {{.name = "balance_loss"}};
    void visit(Fields& field) {
      field("n_experts", n_experts, {.help = "experts that may select themselves", .unit = "experts", .min = 1});
      field("d_expert", d_expert, {.help = "hidden width of one expert; 0 = 2 * d_model", .min = 0});
      field("rank", rank, {.help = "width of the activations that experts are ranked by; 0 = d_model / 4", .min = 0});
      field("init_scale", init_scale, {.help = "variance of the first weights, times their fan-in", .min = 0});
      field("selector", selector, {.help = "who goes on", .catalogue = "selectors"});
      field("capacity", capacity, {.help = "room per expert, and what happens without it", .catalogue = "capacities"});
      field("gate", gate, {.help = "how much each chosen expert counts", .catalogue = "gates"});
      field("balancers", balancers, {.help = "losses and biases that spread the load", .catalogue = "balancers"});
    }
  };

  AutonomousLayer(const Config& config, const Inputs& in) {
    const auto E = config.n_experts, D = in.d_model;
    const auto I = config.d_expert > 0 ? config.d_expert : 2 * D;
    const auto r = config.rank > 0 ? config.rank : std::max<int64_t>(1, D / 4);
    const auto normal = [&](std::string_view name, at::IntArrayRef sizes) {
      const auto std = std::sqrt(config.init_scale / static_cast<double>(sizes[2]));
      return in.random.at(name).normal(sizes, std, in.options).requires_grad_(true);
    };
    gate_down_ErD_ = normal("gate_down", {E, r, D});
    gate_up_EIr_ = normal("gate_up", {E, I, r});
    up_EID_ = normal("up", {E, I, D});
    down_EDI_ = normal("down", {E, D, I});
    auto own = std::make_unique<OwnScores>();
    own_scores_ = own.get();
    route::Composition stages{
        .selector = config.selector, .capacity = config.capacity, .gate = config.gate, .balancers = config.balancers};
    router_ = route::Router::compose(std::move(own), "the experts' norms", stages,
                                     {.d_model = D,
                                      .n_experts = E,
                                      .random = in.random.at("router"),
                                      .options = in.options,
                                      .corpus = in.corpus,
                                      .shared = in.shared});
  }

  LayerOutput forward(const Tensor& x_ND, const route::Context& context) override {
    const auto N = x_ND.size(0), E = gate_down_ErD_.size(0), r = gate_down_ErD_.size(1);
    const auto dtype = x_ND.scalar_type();
    const auto cached_NEr = kernels::linear(x_ND, gate_down_ErD_.to(dtype).reshape({E * r, -1})).view({N, E, r});
    own_scores_->set(cached_NEr.to(route::router_dtype(x_ND)).norm(2, {-1}));
    auto routing = router_->route(x_ND, context);
    const auto& d = routing.decision;

    const auto place_R = d.token_R() * E + d.expert_R();
    const auto cached_Rr = kernels::gather_rows(cached_NEr.reshape({N * E, r}), place_R);
    const auto gate_RI = kernels::grouped_linear(cached_Rr, gate_up_EIr_.to(dtype), d.offset_E1());
    const auto x_RD = kernels::gather_rows(x_ND, d.token_R());
    const auto up_RI = kernels::grouped_linear(x_RD, up_EID_.to(dtype), d.offset_E1());
    const auto y_RD =
        kernels::grouped_linear(kernels::swiglu(at::cat({gate_RI, up_RI}, 1)), down_EDI_.to(dtype), d.offset_E1());
    LayerOutput out{.y_ND = kernels::combine(y_RD, d.gate_R(), d.token_R(), N), .losses = std::move(routing.losses)};
    show_routing(out, routing, context);
    return out;
  }
  void step() override { router_->step(); }
  LayerFacts facts() const override {
    const auto E = static_cast<double>(gate_down_ErD_.size(0));
    // Every token meets the first matrix of every expert; the rest only of the chosen ones.
    const auto first = static_cast<double>(gate_down_ErD_.numel());
    const auto rest = static_cast<double>(gate_up_EIr_.numel() + up_EID_.numel() + down_EDI_.numel()) / E;
    const auto working = first + router_->facts().choices_per_token * rest;
    return routed_facts(*router_, working);
  }
  route::Router* router() override { return router_.get(); }
  void collect(ParameterList& list) override {
    list.child("router", *router_);  // state of balancers; there are no weights
    list.parameter("gate_down", gate_down_ErD_);
    list.parameter("gate_up", gate_up_EIr_);
    list.parameter("up", up_EID_);
    list.parameter("down", down_EDI_);
  }

 private:
  Tensor gate_down_ErD_, gate_up_EIr_, up_EID_, down_EDI_;
  std::unique_ptr<route::Router> router_;
  OwnScores* own_scores_ = nullptr;  // lives in router_
};

}  // namespace

extern constinit const Entry<MoeLayer> layer_autonomous = entry<AutonomousLayer>(
    {.name = "autonomous",
     .paper = 82,
     .source = "Lv 2025 (Autonomy-of-Experts), section 3; authors' code, AoE.py",
     .taxonomy = "gating/sparse/self-selection",
     .summary = "no router: experts rank themselves by the norm of their first activations",
     .equation = "y = Σ_{e ∈ T} p_e O_e (silu(B_e c_e) ⊙ U_e x),  c_e = A_e x,  p = softmax_e(‖c_e‖),  T = top-k(p)\n"
                 "O, B, U, A: weights of an expert;  selector, gate and balancers may be others"});

}  // namespace collegium::layer
