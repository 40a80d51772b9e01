// Tokens choose together: a token's scores are a mixture of the scores of the tokens of its sequence up to itself,
// weighted by how similar they are to it, w_ts = softmax over s <= t of x_t x_s / temperature. Wraps any scorer.
// P009 (SMoE with a graph of tokens), section 2: Similarity-Aware MoE, where a token takes over the choice of a token
// that is like it.
//
// What is exact about the entropy H of a token's scores p: sum_s w_ts H(p_s) <= H(mixed) <= that + H(w_t). So mixing
// lowers a token's entropy when similar tokens are more decided than it is, and may raise it otherwise.
//
// Assumed: the paper's bilinear form of similarity is the plain dot product here, over sqrt(d_model) by default; only
// earlier tokens count (language models are causal). Logits stay those of the wrapped scorer.
// The mixing grows with the length of the sequence, as attention does, and is not counted per token.
//
// N tokens, T tokens of one sequence, D model width, E experts.
#include <ATen/ATen.h>

#include <cmath>

#include "collegium/kernels/router_linear.h"
#include "collegium/route/mix.h"
#include "collegium/route/wrapped_scorer.h"

namespace collegium::route {
namespace {

class SimilarityMixedScorer final : public WrappedScorer, public Makes<SimilarityMixedScorer, Scorer> {
 public:
  using Interface = Scorer;
  struct Config {
    Named of{.name = "linear"};
    double temperature = 0;
    void visit(Fields& field) {
      field("of", of, {.help = "the scorer whose scores are mixed", .catalogue = "scorers"});
      field("temperature", temperature,
            {.help = "what dot products of tokens are divided by; 0 = sqrt(d_model)", .min = 0});
    }
  };

  SimilarityMixedScorer(const Config& config, const StageInputs& in)
      : WrappedScorer(config.of, in),
        temperature_(config.temperature > 0 ? config.temperature : std::sqrt(static_cast<double>(in.d_model))),
        d_model_(in.d_model),
        n_experts_(in.n_experts) {
    require(inner_->kind() != ScoreKind::none, "similarity_mixed: scorer '", config.of.name, "' has no scores to mix");
    require(!inner_->claims().closes_experts, "similarity_mixed: scorer '", config.of.name,
            "' closes experts to some tokens, and a mixture would open them again");
  }

  Scores score(const Tensor& x_ND, const Context& context) override {
    auto out = inner_->score(x_ND, context);
    const auto x_in = x_ND.to(router_dtype(x_ND));
    const auto offsets = sequence_offsets(context, x_ND.size(0));
    std::vector<Tensor> parts;
    for (size_t g = 0; g + 1 < offsets.size(); ++g) {
      const auto rows = [&](const Tensor& t_N) { return t_N.slice(0, offsets[g], offsets[g + 1]); };
      const auto x_TD = rows(x_in);
      const auto logit_TT = kernels::router_linear(x_TD, x_TD) / temperature_;
      const auto real_T = context.mask_N.defined() ? rows(context.mask_N) : Tensor();
      parts.push_back(mix_earlier(logit_TT, rows(out.score_NE), real_T, MixBy::logit));
    }
    out.score_NE = at::cat(parts);
    return out;
  }
  Claims claims() const override {
    auto claims = inner_->claims();
    claims.reads_other_tokens = true;
    return claims;
  }
  double flops_per_pair() const override {
    // Every pair is compared, and earlier tokens' scores are mixed.
    return inner_->flops_per_pair() + 2.0 * static_cast<double>(d_model_) + static_cast<double>(n_experts_);
  }

 private:
  double temperature_;
  int64_t d_model_, n_experts_;
};

}  // namespace

extern constinit const Entry<Scorer> scorer_similarity_mixed =
    entry<SimilarityMixedScorer>({.name = "similarity_mixed",
                                  .paper = 9,
                                  .source = "Nguyen 2025 (SMoE with a graph of tokens), section 2",
                                  .taxonomy = "gating/sparse/token interaction",
                                  .summary = "scores mixed with those of similar earlier tokens",
                                  .equation = "s_t = Σ_{u ≤ t} w_tu s'_u,  w_t = softmax_{u ≤ t}(⟨x_t, x_u⟩ / τ)\n"
                                              "s' = scores of the wrapped scorer,  τ = √D unless given",
                                  .claims = {.reads_other_tokens = true}});

}  // namespace collegium::route
