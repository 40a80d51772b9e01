// Scores on a low-dimensional hypersphere: the token is projected to a few dimensions, token and expert embeddings
// are divided by their length, and a learned temperature sharpens their cosine. Only directions decide, so tokens are
// not pulled towards the experts' embeddings in all of their dimensions. P019 (X-MoE), section 3:
// dimension E / 2, temperature that starts at 0.07 and is learned.
//
// Assumed: the temperature is kept as its logarithm, counted from the start value, and acts as if never below 0.01 (as
// in CLIP), so logits stay within 100; vectors of length 0 have cosine 0. The public code also rescales the experts'
// embeddings in place, which a cosine cannot see.
//
// N tokens, D model width, E experts, P projected width.
#include <ATen/ATen.h>

#include <cmath>

#include "collegium/kernels/router_linear.h"
#include "collegium/route/score_function.h"

namespace collegium::route {
namespace {

constexpr double kLeastTemperature = 0.01;

class CosineScorer final : public Scorer, public Makes<CosineScorer, Scorer> {
 public:
  using Interface = Scorer;
  struct Config {
    ScoreKind activation = ScoreKind::softmax;
    int64_t dimension = 0;
    double temperature = 0.07;
    void visit(Fields& field) {
      field("activation", activation, {.help = "score function over the experts: softmax or sigmoid"});
      field("dimension", dimension,
            {.help = "width of the space of the cosines; 0 = half the number of experts", .min = 0});
      field("temperature", temperature,
            {.help = "what cosines are divided by at the start; then it is learned", .min = kLeastTemperature});
    }
  };

  CosineScorer(const Config& config, const StageInputs& in) : config_(config) {
    require(config.activation == ScoreKind::softmax || config.activation == ScoreKind::sigmoid,
            "cosine: activation must be softmax or sigmoid, got ",
            enum_names(config.activation)[static_cast<size_t>(config.activation)]);
    const auto P = config.dimension > 0 ? config.dimension : (in.n_experts + 1) / 2;
    const auto std = 1 / std::sqrt(static_cast<double>(in.d_model));
    project_PD_ = in.random.at("project").normal({P, in.d_model}, std, in.options).requires_grad_(true);
    weight_EP_ = in.random.at("weight").normal({in.n_experts, P}, 1, in.options).requires_grad_(true);
    log_temperature_ = at::zeros({}, in.options).requires_grad_(true);
  }

  Scores score(const Tensor& x_ND, const Context&) override {
    const auto dtype = router_dtype(x_ND);
    const auto low_NP = unit(kernels::router_linear(x_ND.to(dtype), project_PD_.to(dtype)));
    Scores out;
    const auto log_temperature = log_temperature_.to(dtype) + std::log(config_.temperature);
    out.logit_NE = kernels::router_linear(low_NP, unit(weight_EP_.to(dtype))) *
                   (-log_temperature.clamp_min(std::log(kLeastTemperature))).exp();
    out.score_NE = score_function(out.logit_NE, config_.activation);
    return out;
  }
  ScoreKind kind() const override { return config_.activation; }
  bool is_per_token() const override { return true; }
  double flops_per_token() const override {
    return 2.0 * static_cast<double>(project_PD_.numel() + weight_EP_.numel());
  }
  void collect(ParameterList& list) override {
    list.parameter("project", project_PD_, ParameterKind::embedding);
    list.parameter("weight", weight_EP_, ParameterKind::embedding);
    list.parameter("log_temperature", log_temperature_, ParameterKind::vector);
  }

 private:
  static Tensor unit(const Tensor& v_NP) { return v_NP / v_NP.norm(2, {-1}, true).clamp_min(1e-6); }

  Config config_;
  Tensor project_PD_, weight_EP_, log_temperature_;
};

}  // namespace

extern constinit const Entry<Scorer> scorer_cosine =
    entry<CosineScorer>({.name = "cosine",
                         .paper = 19,
                         .source = "Chi 2022 (X-MoE), section 3",
                         .taxonomy = "gating/sparse/cosine",
                         .summary = "cosine in a low-dimensional space, divided by a learned temperature",
                         .equation = "s = φ(ℓ),  ℓ_e = cos(P x, w_e) / τ,  φ = softmax or sigmoid\n"
                                     "P: projection to half as many dimensions as experts, τ ≥ 0.01 learned"});

}  // namespace collegium::route
