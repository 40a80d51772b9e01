// OmniMoE: a pool of experts of single vectors behind a router of two tables, beside a dense network that works for
// every token:
//
//   y = shared(x) + sum over the k best (a, b) of p_a(x) q_b(x) act(<up_ab, x>) down_ab
//   p = softmax(norm(x U)), q = softmax(norm(x V)): the rows and columns of a grid of E = S S experts
//
// P027 (Shi 2026, OmniMoE): vector-level atomic experts, the Cartesian product router, whose cost grows with sqrt(E),
// expert-centric scheduling, and the shared dense branch. From the authors' code (omni_moe.py): SiLU between the two
// vectors and no gate vector; tables of scores normalised over the batch without gain or shift; probabilities
// multiplied and not normalised over the chosen; a SwiGLU network beside. Their scheduler sorts pairs by expert, and
// joins experts with equal lists of tokens into small matrix products where there are some; on processors with caches a
// vector stays in the first-level cache while its tokens pass, so pairs are walked one by one here. Assumed: first
// weights (the code has torch's defaults, N(0, 1) for both vectors). Gated experts (a third vector, as in SwiGLU) are
// an addition.
//
// N tokens, D model width, E experts.
#include <ATen/ATen.h>

#include <cmath>

#include "collegium/layer/atomic_experts.h"
#include "collegium/layer/product_keys.h"
#include "collegium/layer/routed_part.h"

namespace collegium::layer {
namespace {

class OmniLayer final : public MoeLayer, public Makes<OmniLayer, MoeLayer> {
 public:
  using Interface = MoeLayer;
  struct Config {
    int64_t n_experts = 1024;
    int64_t k = 0;
    AtomicActivation activation = AtomicActivation::silu;
    bool gated = false;
    int64_t d_shared = 0;
    Named shared{.name = "swiglu"};
    bool batch_norm = true;
    ProductWeight weight = ProductWeight::probability;
    double scale = 1;
    double up_std = 0, down_std = 1;
    Schedule schedule = Schedule::expert;
    void visit(Fields& field) {
      field("n_experts", n_experts,
            {.help = "experts of single vectors; a square number", .unit = "experts", .min = 1});
      field("k", k, {.help = "experts per token; 0 = the square root of n_experts", .unit = "experts", .min = 0});
      field("activation", activation, {.help = "between an expert's two vectors"});
      field("gated", gated, {.help = "a third vector: act(<gate, x>) <up, x> instead of act(<up, x>)"});
      field("d_shared", d_shared, {.help = "hidden width of the dense network beside; 0 = 2 * d_model", .min = 0});
      field("shared", shared, {.help = "kind of dense network beside", .catalogue = "experts"});
      field(
          "batch_norm", batch_norm,
          {.help = "scores of rows and columns are normalised over the batch, when evaluating by running statistics"});
      field("weight", weight,
            {.help = "an expert's weight: its probability among all, or its share of what is chosen"});
      field("scale", scale, {.help = "factor of all weights", .min = 0});
      field("up_std", up_std, {.help = "first reading vectors' standard deviation; 0 = 1 / sqrt(d_model)", .min = 0});
      field("down_std", down_std,
            {.help = "first writing vectors' standard deviation; 0 = 1 / sqrt(d_model)", .min = 0});
      field("schedule", schedule, {.help = "who gathers: experts their tokens, or tokens their experts (the rival)"});
    }
  };

  OmniLayer(const Config& config, const Inputs& in)
      : experts_({.activation = config.activation,
                  .gated = config.gated,
                  .up_std = config.up_std,
                  .down_std = config.down_std,
                  .schedule = config.schedule},
                 config.n_experts, in.d_model, in.random.at("experts"), in.options),
        router_(product_key_router({.who = "omni",
                                    .n_experts = config.n_experts,
                                    .k = config.k > 0 ? config.k : std::llround(std::sqrt(config.n_experts)),
                                    .batch_norm = config.batch_norm,
                                    .weight = config.weight,
                                    .scale = config.scale},
                                   in)),
        shared_(make_experts(config.shared, 1, config.d_shared > 0 ? config.d_shared : 2 * in.d_model, in, "shared")) {}

  LayerOutput forward(const Tensor& x_ND, const route::Context& context) override {
    auto routing = router_->route(x_ND, context);
    auto dense_ND = shared_->one(x_ND, 0);
    dense_ND = route::only_real(dense_ND, context);
    LayerOutput out{.y_ND = experts_.forward(x_ND, routing.decision) + dense_ND, .losses = std::move(routing.losses)};
    show_routing(out, routing, context);
    return out;
  }
  void step() override { router_->step(); }
  LayerFacts facts() const override {
    const auto chosen = router_->facts().choices_per_token * static_cast<double>(experts_.parameters_per_expert());
    return routed_facts(*router_, chosen + static_cast<double>(shared_->parameters_per_expert()));
  }
  route::Router* router() override { return router_.get(); }
  void collect(ParameterList& list) override {
    list.child("router", *router_);
    list.child("experts", experts_);
    list.child("shared", *shared_);
  }

 private:
  AtomicExperts experts_;
  std::unique_ptr<route::Router> router_;
  std::unique_ptr<Experts> shared_;
};

}  // namespace

extern constinit const Entry<MoeLayer> layer_omni = entry<OmniLayer>(
    {.name = "omni",
     .paper = 27,
     .source = "Shi 2026 (OmniMoE), section 3; authors' code, omni_moe.py",
     .taxonomy = "architecture/sparse/atomic experts",
     .summary = "experts of single vectors, found by row and column, beside a dense network",
     .equation = "y = shared(x) + Σ_{(a, b) ∈ T} p_a q_b act(⟨u_ab, x⟩) d_ab,  T = top-k of p_a q_b\n"
                 "p = softmax(norm(U x)), q = softmax(norm(V x)): rows and columns of a grid of E experts"});

}  // namespace collegium::layer
