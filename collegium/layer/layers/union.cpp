// Union-of-MLP-Experts: one feed-forward block cut into E slices of its hidden width, as tensor parallelism cuts it
// (the way in by columns, the way back by rows). Slices are the experts, so the sum of all their outputs is the block:
//
//   W_2 f(W_1 x) = sum_e W_2[:, e] f(W_1[e, :] x)
//
// P074 (Yang 2025, Union of Experts), equivalent decomposition and UoME; authors' code,
// language_modeling/model/mlp/UoME_DS.py. First weights are those of the whole block (the joint fan-in on the way
// back), which routed experts of the same width do not have. Assumed: no biases and no residual of its own, as in every
// layer here; weights of the router `union`, see there.
//
// N tokens, D model width, E experts.
#include <ATen/ATen.h>

#include "collegium/layer/activations.h"
#include "collegium/layer/routed_part.h"

namespace collegium::layer {
namespace {

class UnionLayer final : public MoeLayer, public Makes<UnionLayer, MoeLayer> {
 public:
  using Interface = MoeLayer;
  struct Config {
    int64_t n_experts = 8;
    int64_t d_hidden = 0;
    Named expert{.name = "swiglu"};
    Named router{.name = "union"};
    void visit(Fields& field) {
      field("n_experts", n_experts, {.help = "slices that the block is cut into", .unit = "experts", .min = 1});
      field(
          "d_hidden", d_hidden,
          {.help = "hidden width of the whole block, a multiple of n_experts; 0 = 4 * d_model, rounded up", .min = 0});
      field("expert", expert, {.help = "kind of block", .catalogue = "experts"});
      field("router", router, {.help = "who chooses", .catalogue = "routers"});
    }
  };

  UnionLayer(const Config& config, const Inputs& in)
      : part_(config.expert, config.router, config.n_experts, slice(config, in), in, config.n_experts, in.pool.get()) {}

  LayerOutput forward(const Tensor& x_ND, const route::Context& context) override {
    auto routing = part_.route(x_ND, context);
    LayerOutput out{.y_ND = part_.experts->forward(x_ND, routing.decision), .losses = std::move(routing.losses)};
    show_activations(out, *part_.experts, x_ND, routing.decision, context);
    show_routing(out, routing, context);
    return out;
  }
  Tensor units(const Tensor& x_ND, const LayerOutput& done) override {
    return wide_hidden(*part_.experts, x_ND, *done.decision);
  }
  void step() override { part_.router->step(); }
  LayerFacts facts() const override { return routed_facts(*part_.router, part_.parameters_working()); }
  route::Router* router() override { return part_.router.get(); }
  void collect(ParameterList& list) override { part_.collect(list); }

 private:
  static int64_t slice(const Config& config, const Inputs& in) {
    const auto E = config.n_experts;
    if (config.d_hidden == 0) return (4 * in.d_model + E - 1) / E;
    require(config.d_hidden % E == 0, "union: d_hidden = ", config.d_hidden, " cannot be cut into n_experts = ", E,
            " equal slices");
    return config.d_hidden / E;
  }

  RoutedPart part_;
};

}  // namespace

extern constinit const Entry<MoeLayer> layer_union =
    entry<UnionLayer>({.name = "union",
                       .paper = 74,
                       .source = "Yang 2025 (Union of Experts), UoME; authors' code, UoME_DS.py",
                       .taxonomy = "architecture/sparse/decomposed block",
                       .summary = "one feed-forward block cut into slices that are its experts",
                       .equation = "y = Σ_{e ∈ T} g_e W₂[:, e] act(W₁[e, :] x),  T and g by the router\n"
                                   "slices e of one block: with all e and g = 1, y = W₂ act(W₁ x)"});

}  // namespace collegium::layer
