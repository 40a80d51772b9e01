// A router that is neither trained nor frozen: a fixed random network generates its weight from a trained embedding.
// P075 (HyperRouter), section 3: W = H(e), two layers with a ReLU between them, hidden width 256, e as wide as the
// model. H has no gradient and stays as it was drawn; e moves, and W with it.
//
// Assumed: no biases (the public code has them in both layers and in the generated router), and a first W of the
// linear router's size, so that both start alike.
//
// D model width, E experts, H hidden width of the hypernetwork.
#include <ATen/ATen.h>

#include <cmath>

#include "collegium/kernels/router_linear.h"
#include "collegium/route/score_function.h"

namespace collegium::route {
namespace {

class HyperScorer final : public Scorer, public Makes<HyperScorer, Scorer> {
 public:
  using Interface = Scorer;
  struct Config {
    ScoreKind activation = ScoreKind::softmax;
    int64_t hidden = 256;
    double init_scale = 0.1;
    bool frozen = false;
    void visit(Fields& field) {
      field("activation", activation, {.help = "score function over the experts"});
      field("hidden", hidden, {.help = "hidden width of the hypernetwork", .min = 1});
      field("init_scale", init_scale,
            {.help = "generated weights start with standard deviation sqrt(init_scale / d_model)", .min = 0});
      field("frozen", frozen, {.help = "the embedding stays as it was drawn: a router that is never trained"});
    }
  };

  HyperScorer(const Config& config, const StageInputs& in)
      : activation_(config.activation), n_experts_(in.n_experts), d_model_(in.d_model) {
    require(config.activation != ScoreKind::none, "hyper: activation must be softmax, sigmoid or relu");
    const auto D = static_cast<double>(in.d_model), H = static_cast<double>(config.hidden);
    embedding_D_ = in.random.at("embedding").normal({in.d_model}, 1, in.options).requires_grad_(!config.frozen);
    // He's initialisation keeps the mean square of the hidden activations at 1.
    first_HD_ = in.random.at("first").normal({config.hidden, in.d_model}, std::sqrt(2 / D), in.options);
    second_XH_ = in.random.at("second").normal({in.n_experts * in.d_model, config.hidden},
                                               std::sqrt(config.init_scale / D / H), in.options);
  }

  Scores score(const Tensor& x_ND, const Context&) override {
    const auto dtype = router_dtype(x_ND);
    const auto hidden_H = at::mv(first_HD_.to(dtype), embedding_D_.to(dtype)).relu();
    const auto weight_ED = at::mv(second_XH_.to(dtype), hidden_H).view({n_experts_, d_model_});
    Scores out;
    out.logit_NE = kernels::router_linear(x_ND.to(dtype), weight_ED);
    out.score_NE = score_function(out.logit_NE, activation_);
    out.prototype_ED = weight_ED;
    return out;
  }
  ScoreKind kind() const override { return activation_; }
  bool has_prototypes() const override { return true; }
  bool is_per_token() const override { return true; }
  // The weight is generated once a pass; per token only its product counts.
  double flops_per_token() const override { return 2.0 * static_cast<double>(n_experts_ * d_model_); }
  void collect(ParameterList& list) override {
    if (embedding_D_.requires_grad())
      list.parameter("embedding", embedding_D_, ParameterKind::vector);
    else
      list.buffer("embedding", embedding_D_);
    list.buffer("first", first_HD_);
    list.buffer("second", second_XH_);
  }

 private:
  ScoreKind activation_;
  int64_t n_experts_, d_model_;
  Tensor embedding_D_, first_HD_, second_XH_;
};

}  // namespace

extern constinit const Entry<Scorer> scorer_hyper =
    entry<HyperScorer>({.name = "hyper",
                        .paper = 75,
                        .source = "Do 2023 (HyperRouter), section 3",
                        .taxonomy = "gating/sparse/generated",
                        .summary = "a fixed random network generates the router's weight from a trained embedding",
                        .equation = "s = φ(W x),  W = H₂ relu(H₁ v),  φ = softmax, sigmoid or relu\n"
                                    "v learned, H₁ and H₂ random and fixed"});

}  // namespace collegium::route
