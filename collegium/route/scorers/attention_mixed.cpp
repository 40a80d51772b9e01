// Tokens choose together: a token's scores are a mixture of the scores of the tokens that it attends to, weighted by
// the attention of its layer, mean over heads. Wraps any scorer. P009 (SMoE with a graph of tokens), section 3:
// Attention-Aware MoE.
//
// About the entropy of the mixture see similarity_mixed.cpp. Only earlier tokens of the sequence count, whatever the
// attention given; shares are taken over the real ones. The gradient goes through the attention, too.
// The mixing grows with the length of the sequence, as attention does, and is not counted per token.
//
// N tokens, B sequences of T tokens, E experts.
#include <ATen/ATen.h>

#include "collegium/route/mix.h"
#include "collegium/route/wrapped_scorer.h"

namespace collegium::route {
namespace {

class AttentionMixedScorer final : public WrappedScorer, public Makes<AttentionMixedScorer, Scorer> {
 public:
  using Interface = Scorer;
  struct Config {
    Named of{.name = "linear"};
    void visit(Fields& field) {
      field("of", of, {.help = "the scorer whose scores are mixed", .catalogue = "scorers"});
    }
  };

  AttentionMixedScorer(const Config& config, const StageInputs& in)
      : WrappedScorer(config.of, in), n_experts_(in.n_experts) {
    require(inner_->kind() != ScoreKind::none, "attention_mixed: scorer '", config.of.name, "' has no scores to mix");
    require(!inner_->claims().closes_experts, "attention_mixed: scorer '", config.of.name,
            "' closes experts to some tokens, and a mixture would open them again");
  }

  Scores score(const Tensor& x_ND, const Context& context) override {
    auto out = inner_->score(x_ND, context);
    const auto& attention_BTT = context.attention_BTT;
    const auto N = x_ND.size(0), B = attention_BTT.size(0), T = attention_BTT.size(1);
    require(attention_BTT.dim() == 3 && attention_BTT.size(2) == T && B * T == N,
            "attention_mixed: attention [sequences, length, length] over ", N, " tokens was wanted, got ",
            attention_BTT.sizes());
    std::vector<Tensor> parts;
    for (int64_t b = 0; b < B; ++b) {
      const auto rows = [&](const Tensor& t_N) { return t_N.slice(0, b * T, (b + 1) * T); };
      const auto real_T = context.mask_N.defined() ? rows(context.mask_N) : Tensor();
      const auto share_TT = attention_BTT[b].to(out.score_NE.scalar_type());
      parts.push_back(mix_earlier(share_TT, rows(out.score_NE), real_T, MixBy::share));
    }
    if (!parts.empty()) out.score_NE = at::cat(parts);
    return out;
  }
  Needs needs() const override {
    auto needs = inner_->needs();
    needs.context = needs.context | ContextNeeds{.attention = true};
    return needs;
  }
  Claims claims() const override {
    auto claims = inner_->claims();
    claims.reads_other_tokens = true;
    return claims;
  }
  double flops_per_pair() const override { return inner_->flops_per_pair() + static_cast<double>(n_experts_); }

 private:
  int64_t n_experts_;
};

}  // namespace

extern constinit const Entry<Scorer> scorer_attention_mixed = entry<AttentionMixedScorer>(
    {.name = "attention_mixed",
     .paper = 9,
     .source = "Nguyen 2025 (SMoE with a graph of tokens), section 3",
     .taxonomy = "gating/sparse/token interaction",
     .summary = "scores mixed with those of the tokens that are attended to",
     .equation = "s_t = Σ_{u ≤ t} a_tu s'_u / Σ_{u ≤ t} a_tu,  s' = scores of the wrapped scorer\n"
                 "a = attention of this layer, mean over heads",
     .claims = {.reads_other_tokens = true}});

}  // namespace collegium::route
