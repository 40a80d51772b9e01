// Experts as the parts of a mixture of distributions over the hidden states: a token's scores are the
// responsibilities, P(e | x) = w_e N(x; mu_e, sigma_e^2) / sum_f w_f N(x; mu_f, sigma_f^2). The mixture learns from
// its own likelihood alone. P010 (Input Domain Aware MoE): routing by a probabilistic mixture model, trained apart
// from the task.
//
// The hidden state comes detached, and scores leave detached: no gradient of the task reaches the mixture's
// parameters, and none reaches x through the router.
//
// Assumed: Gaussians with a variance per dimension above a floor (a part that shrinks onto one token would have an
// unbounded likelihood); hidden states divided by their root mean square; an optional fixed random projection (one that
// learned from the likelihood would learn to project to nothing); equal weights of the parts by default, which asks
// for even use; the loss is the mean negative log-likelihood per dimension.
//
// N tokens, D model width, E experts, P width of the space of the mixture.
#include <ATen/ATen.h>

#include <cmath>
#include <numbers>

#include "collegium/kernels/router_linear.h"
#include "collegium/route/stages.h"

namespace collegium::route {
namespace {

class GaussianMixtureScorer final : public Scorer, public Makes<GaussianMixtureScorer, Scorer> {
 public:
  using Interface = Scorer;
  struct Config {
    double coefficient = 0.1;
    int64_t dimension = 0;
    double init_scale = 0.1;
    double min_variance = 0.01;
    bool learn_weights = false;
    void visit(Fields& field) {
      field("coefficient", coefficient, {.help = "weight of the mixture's own loss", .min = 0});
      field("dimension", dimension,
            {.help = "width of a fixed random projection before the mixture; 0 = no projection", .min = 0});
      field("init_scale", init_scale,
            {.help = "means start normal with standard deviation sqrt(init_scale / width)", .min = 0});
      field("min_variance", min_variance, {.help = "floor of every variance", .min = 1e-6});
      field("learn_weights", learn_weights,
            {.help = "learn how likely each expert is; otherwise all are equally likely"});
    }
  };

  GaussianMixtureScorer(const Config& config, const StageInputs& in) : config_(config) {
    const auto P = config.dimension > 0 ? config.dimension : in.d_model;
    if (config.dimension > 0)
      project_PD_ =
          in.random.at("project").normal({P, in.d_model}, 1 / std::sqrt(static_cast<double>(in.d_model)), in.options);
    const auto std = std::sqrt(config.init_scale / static_cast<double>(P));
    mean_EP_ = in.random.at("mean").normal({in.n_experts, P}, std, in.options).requires_grad_(true);
    log_variance_EP_ = at::zeros({in.n_experts, P}, in.options).requires_grad_(true);
    if (config.learn_weights) log_weight_E_ = at::zeros({in.n_experts}, in.options).requires_grad_(true);
  }

  Scores score(const Tensor& x_ND, const Context& context) override {
    const auto dtype = router_dtype(x_ND);
    auto x_NP = x_ND.detach().to(dtype);
    x_NP = x_NP * (x_NP.square().mean(-1, true) + 1e-6).rsqrt();
    if (project_PD_.defined()) x_NP = kernels::router_linear(x_NP, project_PD_.to(dtype));
    const auto joint_NE = log_joint(x_NP);
    const auto nll_N = -joint_NE.logsumexp({1});
    const auto real_N = real_tokens(context, x_ND.size(0), nll_N.options());
    const auto nll = (nll_N * real_N).sum() / real_N.sum().clamp_min(1);
    Scores out;
    out.logit_NE = joint_NE.detach();
    out.score_NE = out.logit_NE.softmax(-1);
    out.losses.push_back(
        {"mixture_nll", nll * (config_.coefficient / static_cast<double>(mean_EP_.size(1))), nll.item<double>()});
    return out;
  }
  ScoreKind kind() const override { return ScoreKind::softmax; }
  Claims claims() const override { return {.learns_from_task = false}; }
  double flops_per_token() const override {
    return 4.0 * static_cast<double>(mean_EP_.numel()) +
           (project_PD_.defined() ? 2.0 * static_cast<double>(project_PD_.numel()) : 0.0);
  }
  // Kind `vector`: decay would pull means to zero and variances to one, against the likelihood.
  void collect(ParameterList& list) override {
    if (project_PD_.defined()) list.buffer("project", project_PD_);
    list.parameter("mean", mean_EP_, ParameterKind::vector);
    list.parameter("log_variance", log_variance_EP_, ParameterKind::vector);
    if (log_weight_E_.defined()) list.parameter("log_weight", log_weight_E_, ParameterKind::vector);
  }

 private:
  // log (w_e N(x; mu_e, sigma_e^2)), the square written out so that each token's numbers are its own to the bit.
  Tensor log_joint(const Tensor& x_NP) const {
    const auto mean_EP = mean_EP_.to(x_NP), variance_EP = log_variance_EP_.to(x_NP).exp() + config_.min_variance;
    const auto precision_EP = variance_EP.reciprocal();
    const auto log_2pi = std::log(2 * std::numbers::pi);
    const auto constant_E = -0.5 * (mean_EP.square() * precision_EP + variance_EP.log() + log_2pi).sum(-1);
    const auto log_weight_E =
        log_weight_E_.defined()
            ? log_weight_E_.to(x_NP).log_softmax(-1)
            : at::full({mean_EP.size(0)}, -std::log(static_cast<double>(mean_EP.size(0))), x_NP.options());
    return kernels::router_linear(x_NP.square(), -0.5 * precision_EP) +
           kernels::router_linear(x_NP, mean_EP * precision_EP) + (constant_E + log_weight_E);
  }

  Config config_;
  Tensor project_PD_, mean_EP_, log_variance_EP_, log_weight_E_;
};

}  // namespace

extern constinit const Entry<Scorer> scorer_gaussian_mixture = entry<GaussianMixtureScorer>(
    {.name = "gaussian_mixture",
     .paper = 10,
     .source = "Input Domain Aware MoE, 2025 (abstract; see the file's assumptions)",
     .taxonomy = "gating/sparse/mixture model",
     .summary = "responsibilities of a mixture over hidden states, trained by likelihood",
     .equation = "p_e = π_e N(z; μ_e, σ_e²) / Σ_j π_j N(z; μ_j, σ_j²),  z = x / rms(x) without gradient\n"
                 "L = -α mean_t log Σ_e π_e N(z_t; μ_e, σ_e²) / width of z,  π_e = 1 / E or learned",
     .claims = {.learns_from_task = false}});

}  // namespace collegium::route
