// VQMoE: beside the ordinary sparse mixture, each token is replaced by the nearest code of a learned codebook, and the
// code, not a router, points to the expert that works on it. A learned gate adds up both paths (pre-training variant):
//
//   y = g_c sum_i gate_i f_i(x) + g_d f_(c mod E)(q),   c = argmin |x - v_c|^2,   (g_c, g_d) = softmax(W_g x)
//   q = x + contribution (v_c - x)
//
// P118 (Do 2024), section 3.2 and authors' code, vqmoe.py: both paths share the experts, the code's number modulo the
// number of experts is the expert, codes learn by gradient: loss = |sg(x) - v|^2 + commitment |x - sg(v)|^2, a mean
// over tokens and features; gradients pass the quantiser straight through. The authors' code mixes a share of 0.1 of
// the code into the state (the default here), the paper's text gives the expert the code itself (contribution = 1).
// The authors' code has 512 codes, the text one per expert (the default here). Assumed: no extra normalisation around
// the discrete path (the decoder's states are normalised), and codes start near zero so that none is out of reach.
//
// The decision in the output is that of the continuous path.
//
// N tokens, D model width, E experts, V codes.
#include <ATen/ATen.h>

#include <algorithm>
#include <limits>

#include "collegium/layer/routed_part.h"

namespace collegium::layer {
namespace {

class VectorQuantisedLayer final : public MoeLayer, public Makes<VectorQuantisedLayer, MoeLayer> {
 public:
  using Interface = MoeLayer;
  struct Config {
    int64_t n_experts = 8;
    int64_t d_expert = 0;
    int64_t n_codes = 0;
    double codebook_loss = 1;
    double commitment = 0.25;
    double contribution = 0.1;
    double init_std = 0.1;
    Named expert{.name = "swiglu"};
    Named router{.name = "top_k"};
    void visit(Fields& field) {
      field("n_experts", n_experts, {.help = "experts that both paths share", .unit = "experts", .min = 1});
      field("d_expert", d_expert, {.help = "hidden width of one expert; 0 = 2 * d_model", .min = 0});
      field("n_codes", n_codes, {.help = "codes; code c points to expert c modulo n_experts; 0 = n_experts", .min = 0});
      field("codebook_loss", codebook_loss, {.help = "weight of the distance that codes learn from", .min = 0});
      field("commitment", commitment, {.help = "weight, besides, of the distance that states learn from", .min = 0});
      field("contribution", contribution,
            {.help = "share of the code in what its expert sees; the rest is the token's state", .min = 0, .max = 1});
      field("init_std", init_std, {.help = "codes start normal with this standard deviation", .min = 0});
      field("expert", expert, {.help = "kind of expert", .catalogue = "experts"});
      field("router", router, {.help = "who chooses in the continuous path", .catalogue = "routers"});
    }
  };

  VectorQuantisedLayer(const Config& config, const Inputs& in)
      : config_(config),
        part_(config.expert, config.router, config.n_experts, config.d_expert > 0 ? config.d_expert : 2 * in.d_model,
              in) {
    const auto V = config.n_codes > 0 ? config.n_codes : config.n_experts;
    code_VD_ = in.random.at("code").normal({V, in.d_model}, config.init_std, in.options).requires_grad_(true);
    path_2D_ = at::zeros({2, in.d_model}, in.options).requires_grad_(true);
  }

  LayerOutput forward(const Tensor& x_ND, const route::Context& context) override {
    auto routing = part_.route(x_ND, context);
    const auto share_N2 = at::linear(wide(x_ND), wide(path_2D_, x_ND)).softmax(1);
    const auto share = [&](int64_t path) { return share_N2.select(1, path); };

    // Gates carry the path's share, so that each path stays one fused pass.
    const auto& chosen = routing.decision;
    const auto continuous = chosen.with_gates(chosen.gate_R() * share(0).index_select(0, chosen.token_R()));
    const auto code_N = nearest(x_ND);
    const auto pointed = point(code_N, context);
    const auto discrete = pointed.with_gates(share(1).index_select(0, pointed.token_R()));
    const auto v_ND = wide(code_VD_, x_ND).index_select(0, code_N);
    const auto quantised_ND = x_ND + config_.contribution * (v_ND.to(x_ND.scalar_type()) - x_ND).detach();

    LayerOutput out{.y_ND = part_.experts->forward(x_ND, continuous) + part_.experts->forward(quantised_ND, discrete),
                    .losses = std::move(routing.losses)};
    if (context.losses) out.losses.push_back(distance(wide(x_ND), v_ND, context));
    show_routing(out, routing, context);
    return out;
  }
  void step() override { part_.router->step(); }
  LayerFacts facts() const override {
    // The continuous path's choices and the expert of the code; every code is compared.
    const auto each = static_cast<double>(part_.experts->parameters_per_expert());
    const auto choosing = static_cast<double>(code_VD_.numel() + path_2D_.numel());
    const auto working = part_.parameters_working() + each;
    auto out = routed_facts(*part_.router, working + choosing);
    // The code's expert may be one of the router's, so no more than all experts meet a token; what experts share is
    // worked on by both paths and met once.
    const auto shared = static_cast<double>(part_.experts->parameters_shared());
    const auto all = part_.experts->parameters_working(static_cast<double>(config_.n_experts));
    out.parameters_active += std::min(working - shared, all) - working;
    return out;
  }
  route::Router* router() override { return part_.router.get(); }
  void collect(ParameterList& list) override {
    list.child("router", *part_.router);
    list.parameter("code", code_VD_, ParameterKind::embedding);
    list.parameter("path", path_2D_, ParameterKind::embedding);
    list.child("experts", *part_.experts);
  }

 private:
  static Tensor wide(const Tensor& t, const Tensor& like) { return t.to(route::router_dtype(like)); }
  static Tensor wide(const Tensor& t) { return wide(t, t); }

  // The nearest code of each token; the lower number among equally near ones. |x|^2 is the same for all.
  Tensor nearest(const Tensor& x_ND) const {
    const auto code_VD = wide(code_VD_, x_ND).detach();
    return (code_VD.square().sum(1) - 2 * at::linear(wide(x_ND).detach(), code_VD)).argmin(1);
  }

  // Each real token to the expert of its code.
  route::Decision point(const Tensor& code_N, const route::Context& context) const {
    auto token_A = at::arange(code_N.size(0), code_N.options());
    if (context.mask_N.defined()) token_A = context.mask_N.nonzero().flatten();
    const auto expert_A = code_N.index_select(0, token_A).remainder(config_.n_experts);
    const auto one_A = at::ones(token_A.sizes(), token_A.options().dtype(at::kFloat));
    return route::Decision::make({token_A, expert_A, at::zeros_like(token_A), one_A,
                                  at::full_like(one_A, std::numeric_limits<float>::infinity())},
                                 code_N.size(0), config_.n_experts);
  }

  route::LossTerm distance(const Tensor& x_ND, const Tensor& v_ND, const route::Context& context) const {
    const auto mean = [&](const Tensor& difference_ND) {
      const auto square_N = difference_ND.square().mean(1);
      if (!context.mask_N.defined()) return square_N.sum() / std::max<int64_t>(1, square_N.size(0));
      const auto real_N = context.mask_N.to(square_N.scalar_type());
      return (square_N * real_N).sum() / real_N.sum().clamp_min(1);
    };
    const auto learns = mean(x_ND.detach() - v_ND), commits = mean(x_ND - v_ND.detach());
    return {.name = "codebook",
            .value = config_.codebook_loss * learns + config_.commitment * commits,
            .raw = learns.item<double>()};
  }

  Config config_;
  RoutedPart part_;
  Tensor code_VD_, path_2D_;
};

}  // namespace

extern constinit const Entry<MoeLayer> layer_vector_quantised = entry<VectorQuantisedLayer>(
    {.name = "vector_quantised",
     .paper = 118,
     .source = "Do 2024 (VQMoE), section 3.2; authors' code, vqmoe.py",
     .taxonomy = "gating/sparse/discrete codes",
     .summary = "a learned code points to an expert, beside an ordinary sparse mixture",
     .equation = "y = a Σ_{e ∈ T} g_e FFN_e(x) + b FFN_{c mod E}(x + r (v_c - x)),  (a, b) = softmax(W x)\n"
                 "c = argmin_c ‖x - v_c‖²;  L = α mean (sg(x) - v_c)² + β mean (x - sg(v_c))²,  sg = no gradient",
     .claims = {.has_exact_gradient = false}});

}  // namespace collegium::layer
