// The expert whose hidden units are predicted to be the sparsest for this token: the router has no weights of its own
// and reads those of the experts. P022 (Yang 2025, MoE-X), sparsity-aware routing.
//
// Weights into the units of an expert are taken as draws from a normal distribution for each input, with the mean mu
// and the variance s^2 over the expert's units. A unit's pre-activation for token x is then normal with mean mu . x and
// variance s^2 . x^2, and the share of units that a ReLU leaves on is
//
//   p(x) = 1/2 (1 + erf(z)),  z = mu . x / sqrt(2 s^2 . x^2);   logit = -erf(z) / temperature
//
// Assumed: gradients reach the experts' weights through mu and s, and a temperature, because erf keeps logits in
// [-1, 1].
//
// N tokens, D model width, E experts.
#include <ATen/ATen.h>

#include "collegium/route/score_function.h"

namespace collegium::route {
namespace {

class SparsityScorer final : public Scorer, public Makes<SparsityScorer, Scorer> {
 public:
  using Interface = Scorer;
  struct Config {
    double temperature = 1;
    void visit(Fields& field) {
      field("temperature", temperature, {.help = "divides the predictions, which lie in [-1, 1]", .min = 1e-6});
    }
  };

  SparsityScorer(const Config& config, const StageInputs& in)
      : temperature_(config.temperature), n_experts_(in.n_experts), d_model_(in.d_model) {
    require(in.n_null == 0, "sparsity: null experts have no hidden units whose sparsity could be predicted");
  }

  Scores score(const Tensor& x_ND, const Context& context) override {
    const auto x = x_ND.to(router_dtype(x_ND));
    const auto units = context.experts->predict_units(x, n_experts_);
    // Where there is no spread, the small term keeps the quotient and its derivative finite.
    const auto z_NE = units.mean_NE * (2 * units.variance_NE + 1e-12).rsqrt();
    Scores out;
    out.logit_NE = at::erf(z_NE) * (-1 / temperature_);
    out.score_NE = score_function(out.logit_NE, ScoreKind::softmax);
    return out;
  }
  ScoreKind kind() const override { return ScoreKind::softmax; }
  Needs needs() const override { return {.context = {.experts = true, .unit_predictions = true}}; }
  // Two products with E statistics; making those costs one pass over the experts' weights a batch, whatever its size.
  double flops_per_token() const override { return 4.0 * static_cast<double>(n_experts_ * d_model_); }

 private:
  double temperature_;
  int64_t n_experts_, d_model_;
};

}  // namespace

extern constinit const Entry<Scorer> scorer_sparsity = entry<SparsityScorer>(
    {.name = "sparsity",
     .paper = 22,
     .source = "Yang 2025 (MoE-X), sparsity-aware routing",
     .taxonomy = "gating/sparse/by experts' weights",
     .summary = "predicted sparsity of each expert's hidden units, from the experts' weights",
     .equation = "p = softmax(-erf(z) / τ),  z_e = ⟨μ_e, x⟩ / √(2 ⟨σ_e², x²⟩)\n"
                 "μ_e, σ_e²: mean and variance over expert e's units of their weights for each feature"});

}  // namespace collegium::route
