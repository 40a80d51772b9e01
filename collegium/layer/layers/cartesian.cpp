// CartesianMoE: two sets of sub-experts, one after the other. Stage one routes the token to sub-experts A, stage two
// routes what they made of it to sub-experts B, so an expert is a pair (i, j) and every pair shares half of itself
// with others: knowledge is shared by composition ("multiplication") instead of by adding shared experts' outputs.
//
//   a = shared_A(x) + sum_i gate_i A_i(x),   h = norm(x + a),   y = a + shared_B(h) + sum_j gate_j B_j(h)
//
// P086 (Su 2024, CartesianMoE), section 3: two sequential sub-layers with a router, sub-experts and shared experts
// each, a residual and a normalisation (RMSNorm) between them; as in the authors' code (modeling_llama.py) a is part of
// the layer's output, as between any two sub-layers of a transformer, unless `residual` is off. Assumed: x between the
// stages is the layer's normalised input, the only one it sees, where the authors' code adds a to the decoder's state;
// shared sub-experts are added as they are (the authors' code weighs them against the routed ones by a learned pair).
//
// The decision in the output is that of stage one, whose input the layer's host knows; loads of stage two are in its
// losses only.
//
// N tokens, D model width, E sub-experts in each set.
#include <ATen/ATen.h>

#include "collegium/kernels/norm.h"
#include "collegium/layer/routed_part.h"

namespace collegium::layer {
namespace {

class CartesianLayer final : public MoeLayer, public Makes<CartesianLayer, MoeLayer> {
 public:
  using Interface = MoeLayer;
  struct Config {
    int64_t n_experts = 8;
    int64_t d_expert = 0;
    int64_t n_shared = 1;
    bool residual = true;
    double norm_epsilon = 1e-5;
    Named expert{.name = "swiglu"};
    Named first{.name = "top_k"};
    Named second{.name = "top_k"};
    void visit(Fields& field) {
      field("n_experts", n_experts,
            {.help = "sub-experts in each of the two sets; experts are their pairs", .unit = "sub-experts", .min = 1});
      field("d_expert", d_expert, {.help = "hidden width of one sub-expert; 0 = d_model", .min = 0});
      field("n_shared", n_shared,
            {.help = "sub-experts of each set that work for every token, besides", .unit = "sub-experts", .min = 0});
      field("residual", residual,
            {.help = "the first stage's output is part of the layer's, besides feeding the second"});
      field("norm_epsilon", norm_epsilon, {.help = "of the normalisation between the stages", .min = 0});
      field("expert", expert, {.help = "kind of sub-expert", .catalogue = "experts"});
      field("first", first, {.help = "who chooses from the first set", .catalogue = "routers"});
      field("second", second, {.help = "who chooses from the second set", .catalogue = "routers"});
    }
  };

  CartesianLayer(const Config& config, const Inputs& in)
      : has_residual_(config.residual),
        norm_epsilon_(config.norm_epsilon),
        first_(config, config.first, below(in, "first")),
        second_(config, config.second, below(in, "second")) {
    norm_D_ = at::ones({in.d_model}, in.options).requires_grad_(true);
  }

  LayerOutput forward(const Tensor& x_ND, const route::Context& context) override {
    LayerOutput out;
    auto one = first_.forward(x_ND, context, "first ", out.losses);
    auto between = context;
    between.random = context.random.at("second");
    between.carried_NH = one.routing.scores.carried_NH;
    const auto h_ND = kernels::rms_norm(x_ND + one.y_ND, norm_D_, norm_epsilon_);
    auto two = second_.forward(h_ND, between, "second ", out.losses);
    out.y_ND = has_residual_ ? one.y_ND + two.y_ND : two.y_ND;
    out.y_ND = route::only_real(out.y_ND, context);
    show_routing(out, one.routing, context);
    out.carried_NH = two.routing.scores.carried_NH;
    return out;
  }
  void step() override {
    first_.part.router->step();
    second_.part.router->step();
  }
  LayerFacts facts() const override {
    const auto a = routed_facts(*first_.part.router, first_.parameters_working());
    const auto b = routed_facts(*second_.part.router, second_.parameters_working());
    return {.n_experts = a.n_experts,
            .parameters_active = a.parameters_active + b.parameters_active + static_cast<double>(norm_D_.numel()),
            .flops_per_token = a.flops_per_token + b.flops_per_token,
            .flops_per_pair = a.flops_per_pair + b.flops_per_pair,
            .is_causal = a.is_causal && b.is_causal,
            .reads_other_tokens = a.reads_other_tokens || b.reads_other_tokens,
            .needs = a.needs | b.needs};
  }
  route::Router* router() override { return first_.part.router.get(); }
  void collect(ParameterList& list) override {
    list.child("first", first_);
    list.parameter("norm", norm_D_, ParameterKind::vector);
    list.child("second", second_);
  }

 private:
  struct StageOutput {
    Tensor y_ND;
    route::Routing routing;
  };

  static Inputs below(Inputs in, std::string_view stream) {
    in.random = in.random.at(stream);
    return in;
  }

  struct Stage {
    Stage(const Config& config, const Named& router, const Inputs& in)
        : part(config.expert, router, config.n_experts, width(config, in), in) {
      if (config.n_shared > 0)
        shared = make_experts(config.expert, 1, config.n_shared * width(config, in), in, "shared");
    }

    StageOutput forward(const Tensor& x_ND, const route::Context& context, std::string_view prefix,
                        std::vector<route::LossTerm>& losses) {
      StageOutput out{.routing = part.route(x_ND, context)};
      out.y_ND = part.experts->forward(x_ND, out.routing.decision);
      if (shared) out.y_ND = out.y_ND + shared->one(x_ND, 0);
      for (auto& term : out.routing.losses) {
        term.name = text(prefix, term.name);
        losses.push_back(std::move(term));
      }
      return out;
    }
    double parameters_working() const {
      return part.parameters_working() + (shared ? static_cast<double>(shared->parameters_per_expert()) : 0.0);
    }
    void collect(ParameterList& list) {
      list.child("router", *part.router);
      list.child("experts", *part.experts);
      if (shared) list.child("shared", *shared);
    }
    static int64_t width(const Config& config, const Inputs& in) {
      return config.d_expert > 0 ? config.d_expert : in.d_model;
    }

    RoutedPart part;
    std::unique_ptr<Experts> shared;
  };

  bool has_residual_;
  double norm_epsilon_;
  Stage first_, second_;
  Tensor norm_D_;
};

}  // namespace

extern constinit const Entry<MoeLayer> layer_cartesian = entry<CartesianLayer>(
    {.name = "cartesian",
     .paper = 86,
     .source = "Su 2024 (CartesianMoE), section 3; authors' code, modeling_llama.py",
     .taxonomy = "architecture/sparse/composed experts",
     .summary = "two routed stages of sub-experts in a row: their pairs are the experts",
     .equation = "y = a + B_shared(h) + Σ_j g'_j B_j(h),  a = A_shared(x) + Σ_i g_i A_i(x),  h = norm(x + a)\n"
                 "g, g': weights by the first and the second router"});

}  // namespace collegium::layer
