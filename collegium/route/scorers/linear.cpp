// One learned embedding per expert; the score is its dot product with the token, through softmax, sigmoid or ReLU.
// The router computes in float32 whatever the model computes in (selective precision), from weights of small
// variance, with optional multiplicative input jitter. P106 (Switch Transformer), sections 2.2 and 2.4.
//
// N tokens, D model width, E experts.
#include <ATen/ATen.h>

#include "collegium/route/score_function.h"

namespace collegium::route {
namespace {

class LinearScorer final : public Scorer, public Makes<LinearScorer, Scorer> {
 public:
  using Interface = Scorer;
  struct Config {
    ScoreKind activation = ScoreKind::softmax;
    double jitter = 0;
    double init_scale = 0.1;
    void visit(Fields& field) {
      field("activation", activation, {.help = "score function over the experts"});
      field("jitter", jitter,
            {.help = "in training the input is multiplied by uniform noise in [1 - jitter, 1 + jitter]",
             .min = 0,
             .max = 1});
      field("init_scale", init_scale,
            {.help = "weights start normal with standard deviation sqrt(init_scale / d_model)", .min = 0});
    }
  };

  LinearScorer(const Config& config, const StageInputs& in) : config_(config) {
    require(config.activation != ScoreKind::none, "linear: activation must be softmax, sigmoid or relu");
    const auto std = std::sqrt(config.init_scale / static_cast<double>(in.d_model));
    weight_ED_ = in.random.at("weight").normal({in.n_experts, in.d_model}, std, in.options).requires_grad_(true);
  }

  Scores score(const Tensor& x_ND, const Context& context) override {
    const auto dtype = router_dtype(x_ND);
    auto input_ND = x_ND.to(dtype);
    if (context.phase != Phase::evaluate && config_.jitter > 0)
      input_ND = input_ND * context.random.at("jitter").uniform(input_ND.sizes(), 1 - config_.jitter,
                                                                1 + config_.jitter, input_ND.options());
    Scores out;
    out.prototype_ED = weight_ED_.to(dtype);
    const auto scores = linear_scores(input_ND, out.prototype_ED, config_.activation);
    out.logit_NE = scores.logit_NE, out.score_NE = scores.score_NE;
    return out;
  }
  ScoreKind kind() const override { return config_.activation; }
  bool has_prototypes() const override { return true; }
  bool is_per_token() const override { return config_.jitter == 0; }  // noise is drawn by place
  Tensor linear_weight() const override { return weight_ED_; }
  double flops_per_token() const override { return 2.0 * static_cast<double>(weight_ED_.numel()); }
  void collect(ParameterList& list) override { list.parameter("weight", weight_ED_, ParameterKind::embedding); }

 private:
  Config config_;
  Tensor weight_ED_;
};

}  // namespace

extern constinit const Entry<Scorer> scorer_linear =
    entry<LinearScorer>({.name = "linear",
                         .paper = 106,
                         .source = "Fedus 2021 (Switch Transformer), eq. 1 and section 2.4",
                         .taxonomy = "gating/sparse/linear",
                         .summary = "dot product of the token with one learned embedding per expert",
                         .equation = "s = φ(W (x ⊙ n)),  φ = softmax, sigmoid or relu\n"
                                     "n ~ U[1 - jitter, 1 + jitter] in training, else 1"});

}  // namespace collegium::route
