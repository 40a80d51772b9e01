// S2MoE: in training every token goes through the experts twice, as it is and with noise, by the same router. A gate
// (the layer's uncertainty) adds up both, and a contrastive loss ties the two outputs of a token together and pushes
// those of other tokens apart. Evaluation uses the plain path only, with fewer experts where `evaluated_k` says so.
//
//   x' = a x + b,  a ~ N(1, s^2),  b ~ N(m, s^2);   y = g f(x) + (1 - g) f(x'),   g = sigmoid(w x)
//   loss = - mean_n log( exp(cos(f(x_n), f(x'_n)) / t) / sum_m exp(cos(f(x_n), f(x'_m)) / t) )
//
// P116 (Do 2025, S2MoE), section 3; only its abstract and a re-implementation were at hand, so assumed: m and s are
// mean and standard deviation of a token's own features (statistics over other tokens would look ahead); `noise` scales
// what is added to x (1 = the formula, 0 = the plain layer); the contrast is between the paths' outputs, against
// `contrast_tokens` neighbours in the batch, which keeps memory linear; balancing losses are the mean of both paths'.
//
// The decision in the output is that of the plain path.
//
// N tokens, D model width, E experts, R assignments, C blocks of M tokens that are contrasted.
#include <ATen/ATen.h>

#include "collegium/layer/routed_part.h"

namespace collegium::layer {
namespace {

class StochasticLayer final : public MoeLayer, public Makes<StochasticLayer, MoeLayer> {
 public:
  using Interface = MoeLayer;
  struct Config {
    int64_t n_experts = 8;
    int64_t d_expert = 0;
    double noise = 1;
    double contrast = 0.1;
    double temperature = 1;
    int64_t contrast_tokens = 64;
    int64_t evaluated_k = 0;
    Named expert{.name = "swiglu"};
    Named router{.name = "top_k"};
    void visit(Fields& field) {
      field("n_experts", n_experts, {.help = "experts to choose from", .unit = "experts", .min = 1});
      field("d_expert", d_expert, {.help = "hidden width of one expert; 0 = 2 * d_model", .min = 0});
      field("noise", noise, {.help = "scale of the noise in training; 0 = an ordinary routed layer", .min = 0});
      field("contrast", contrast, {.help = "weight of the contrastive loss", .min = 0});
      field("temperature", temperature, {.help = "of the contrastive loss", .min = 1e-3});
      field("contrast_tokens", contrast_tokens,
            {.help = "neighbouring tokens that are told apart", .unit = "tokens", .min = 2});
      field("evaluated_k", evaluated_k,
            {.help = "when evaluating, only a token's first so many choices work, with all of its weight; 0 = all",
             .unit = "experts",
             .min = 0});
      field("expert", expert, {.help = "kind of expert", .catalogue = "experts"});
      field("router", router, {.help = "who chooses, on both paths", .catalogue = "routers"});
    }
  };

  StochasticLayer(const Config& config, const Inputs& in)
      : config_(config),
        part_(config.expert, config.router, config.n_experts, config.d_expert > 0 ? config.d_expert : 2 * in.d_model,
              in) {
    trust_D_ = at::zeros({in.d_model}, in.options).requires_grad_(true);
  }

  LayerOutput forward(const Tensor& x_ND, const route::Context& context) override {
    const bool is_noisy = context.phase != route::Phase::evaluate && config_.noise > 0;
    auto routing = part_.route(x_ND, context);
    if (context.phase == route::Phase::evaluate && config_.evaluated_k > 0)
      routing.decision = first_choices(routing.decision, config_.evaluated_k);
    LayerOutput out{.y_ND = part_.experts->forward(x_ND, routing.decision)};
    if (is_noisy) {
      auto here = context;
      here.random = context.random.at("noisy");
      const auto noisy_ND = perturbed(x_ND, here.random);
      const auto other = part_.route(noisy_ND, here);
      const auto other_ND = part_.experts->forward(noisy_ND, other.decision);
      if (config_.contrast > 0) out.losses.push_back(contrast(out.y_ND, other_ND, context));
      const auto dtype = route::router_dtype(x_ND);
      const auto trust_N1 =
          at::matmul(x_ND.to(dtype), trust_D_.to(dtype)).sigmoid().unsqueeze(1).to(x_ND.scalar_type());
      out.y_ND = trust_N1 * out.y_ND + (1 - trust_N1) * other_ND;
      for (size_t i = 0; i < routing.losses.size(); ++i) {
        routing.losses[i].value = (routing.losses[i].value + other.losses[i].value) / 2;
        routing.losses[i].raw = (routing.losses[i].raw + other.losses[i].raw) / 2;
      }
    }
    for (auto& term : routing.losses) out.losses.push_back(std::move(term));
    show_routing(out, routing, context);
    return out;
  }
  void step() override { part_.router->step(); }
  LayerFacts facts() const override {
    // Parameters are those of the plain path; in training noise makes it two paths.
    auto out = routed_facts(*part_.router, part_.parameters_working());
    const auto D = static_cast<double>(trust_D_.numel());
    const auto contrasting = config_.contrast > 0 ? 2 * D * static_cast<double>(config_.contrast_tokens) : 0.0;
    if (config_.noise > 0) out.flops_per_token += out.flops_per_token + 2 * D + contrasting;
    return out;
  }
  route::Router* router() override { return part_.router.get(); }
  void collect(ParameterList& list) override {
    list.child("router", *part_.router);
    list.parameter("trust", trust_D_, ParameterKind::vector);
    list.child("experts", *part_.experts);
  }

 private:
  Tensor perturbed(const Tensor& x_ND, const Random& random) const {
    const auto normal_ND = [&](std::string_view name) {
      return random.at(name).normal(x_ND.sizes(), 1, x_ND.options().requires_grad(false));
    };
    const auto mean_N1 = x_ND.mean({1}, /*keepdim=*/true);
    const auto std_N1 = ((x_ND - mean_N1).square().mean({1}, true) + 1e-12).sqrt();
    const auto a_ND = std_N1 * normal_ND("scale"), b_ND = mean_N1 + std_N1 * normal_ND("shift");
    return x_ND + config_.noise * (a_ND * x_ND + b_ND);
  }

  route::LossTerm contrast(const Tensor& y_ND, const Tensor& other_ND, const route::Context& context) const {
    const auto N = y_ND.size(0), D = y_ND.size(1), M = config_.contrast_tokens, C = (N + M - 1) / M;
    const auto dtype = route::router_dtype(y_ND);
    const auto blocks = [&](const Tensor& t_ND) {
      const auto wide_ND = t_ND.to(dtype);
      const auto unit_ND = wide_ND / (wide_ND.square().sum(1, /*keepdim=*/true) + 1e-12).sqrt();
      return at::cat({unit_ND, unit_ND.new_zeros({C * M - N, D})}).view({C, M, D});
    };
    const auto mask_N = route::real_tokens(context, N, y_ND.options().dtype(at::kBool));
    const auto real_CM = at::cat({mask_N, mask_N.new_zeros({C * M - N})}).view({C, M});
    const auto near_CMM = at::matmul(blocks(y_ND), blocks(other_ND).transpose(1, 2)) / config_.temperature;
    const auto among_CMM = near_CMM.masked_fill(real_CM.logical_not().unsqueeze(1), -1e30);
    const auto loss_CM = among_CMM.logsumexp(2) - near_CMM.diagonal(0, 1, 2);
    const auto value =
        loss_CM.masked_fill(real_CM.logical_not(), 0).sum() / real_CM.sum().to(loss_CM.scalar_type()).clamp_min(1);
    return {.name = "contrast", .value = config_.contrast * value, .raw = value.item<double>()};
  }

  // Without the later choices; what is left has the token's whole weight.
  static route::Decision first_choices(const route::Decision& d, int64_t k) {
    const auto keep = d.rank_R().lt(k).nonzero().flatten();
    const auto rows = [&](const Tensor& t_R) { return t_R.index_select(0, keep); };
    const auto sum = [&](const Tensor& gate_R, const Tensor& token_R) {
      return at::zeros({d.n_tokens()}, gate_R.options().requires_grad(false)).index_add(0, token_R, gate_R);
    };
    const auto token_K = rows(d.token_R());
    const auto gate_K = rows(d.gate_R());
    const auto all_N = sum(d.gate_R(), d.token_R()), left_N = sum(gate_K, token_K);
    const auto factor_N = all_N / left_N.clamp_min(1e-20);
    const auto fewer =
        route::Decision::make({token_K, rows(d.expert_R()), rows(d.rank_R()), rows(d.score_R()), rows(d.margin_R())},
                              d.n_tokens(), d.n_experts());
    return fewer.with_gates(gate_K * factor_N.index_select(0, token_K));
  }

  Config config_;
  RoutedPart part_;
  Tensor trust_D_;
};

}  // namespace

extern constinit const Entry<MoeLayer> layer_stochastic = entry<StochasticLayer>(
    {.name = "stochastic",
     .paper = 116,
     .source = "Do 2025 (S2MoE), section 3",
     .taxonomy = "gating/sparse/noise",
     .summary = "each token also goes through the experts with noise; a gate and a contrastive "
                "loss join both paths",
     .equation = "y = g f(x) + (1 - g) f(x'),  x' = a ⊙ x + b,  a ~ N(1, σ²), b ~ N(μ, σ²),  g = sigmoid(⟨w, x⟩)\n"
                 "L = -α mean_t log softmax_u(cos(f(x_t), f(x'_u)) / τ)_t;  μ, σ of x;  f: routed experts;  "
                 "evaluation: y = f(x)"});

}  // namespace collegium::layer
