// Neighbouring tokens choose together: every token of a patch gets the scores of the patch. What is routed is then a
// piece of the input and not a token: the expert selection of Union of Experts (P074), where one decision sends the
// whole sequence to its experts.
//
// The authors' code (UoME_ES.py) takes the scores of a linear layer over the whole flattened sequence, which has to
// be of one length and looks ahead. Here the scores of the patch are those of its first token, which knows all that
// came before through attention and nothing later, so this is causal; or the mean of its tokens' scores, which is not.
//
// N tokens, E experts, G patches.
#include <ATen/ATen.h>

#include <array>

#include "collegium/route/segments.h"
#include "collegium/route/wrapped_scorer.h"

namespace collegium::route {
namespace {

enum class PatchPool { first, mean };
std::span<const std::string_view> enum_names(PatchPool) {
  static constexpr std::array<std::string_view, 2> names = {"first", "mean"};
  return names;
}

class PatchScorer final : public WrappedScorer, public Makes<PatchScorer, Scorer> {
 public:
  using Interface = Scorer;
  struct Config {
    Named of{.name = "linear"};
    int64_t patch = 8;
    PatchPool pool = PatchPool::first;
    void visit(Fields& field) {
      field("of", of, {.help = "the scorer of single tokens", .catalogue = "scorers"});
      field("patch", patch,
            {.help = "neighbouring tokens that choose together; 0 = the whole sequence", .unit = "tokens", .min = 0});
      field("pool", pool, {.help = "scores of a patch: its first token's (causal), or the mean of all its tokens'"});
    }
  };

  PatchScorer(const Config& config, const StageInputs& in) : WrappedScorer(config.of, below(in)), config_(config) {
    require(inner_->kind() != ScoreKind::none, "patch: scorer '", config.of.name, "' gives no scores");
    require(!inner_->claims().closes_experts, "patch: scorer '", config.of.name,
            "' closes experts to single tokens, so the tokens of a patch cannot choose together");
  }

  Scores score(const Tensor& x_ND, const Context& context) override {
    auto out = inner_->score(x_ND, context);
    const auto N = x_ND.size(0);
    if (N == 0 || config_.patch == 1) return out;
    const auto group_N = segments_of(context, N, config_.patch, x_ND.device()).group_N;
    const auto pooled = [&](const Tensor& t_NE) {
      if (!t_NE.defined()) return t_NE;
      return config_.pool == PatchPool::first ? first_of(t_NE, group_N, context) : mean_of(t_NE, group_N, context);
    };
    out.logit_NE = pooled(out.logit_NE), out.score_NE = pooled(out.score_NE);
    return out;
  }
  Claims claims() const override {
    auto claims = inner_->claims();
    if (config_.patch == 1) return claims;
    claims.reads_other_tokens = true;
    claims.is_causal = claims.is_causal && config_.pool == PatchPool::first;
    claims.is_causal_in_training = claims.is_causal_in_training && claims.is_causal;
    return claims;
  }

 private:
  // Each token gets the row of its patch's first real token.
  static Tensor first_of(const Tensor& t_NE, const Tensor& group_N, const Context& context) {
    const auto N = t_NE.size(0);
    auto index_N = at::arange(N, group_N.options());
    if (context.mask_N.defined()) index_N = at::where(context.mask_N, index_N, N - 1);
    const auto first_G =
        at::full({N}, N - 1, group_N.options()).scatter_reduce(0, group_N, index_N, "amin", /*include_self=*/true);
    return t_NE.index_select(0, first_G.index_select(0, group_N));
  }
  static Tensor mean_of(const Tensor& t_NE, const Tensor& group_N, const Context& context) {
    const auto plain = t_NE.options().requires_grad(false);
    const auto N = t_NE.size(0);
    const auto real_N = real_tokens(context, N, plain);
    const auto count_G = at::zeros({N}, plain).index_add(0, group_N, real_N).clamp_min(1);
    const auto sum_GE = at::zeros_like(t_NE, plain).index_add(0, group_N, t_NE * real_N.unsqueeze(1));
    return (sum_GE / count_G.unsqueeze(1)).index_select(0, group_N);
  }

  Config config_;
};

}  // namespace

extern constinit const Entry<Scorer> scorer_patch = entry<PatchScorer>(
    {.name = "patch",
     .paper = 74,
     .source = "Yang 2025 (Union of Experts), expert selection; authors' code, UoME_ES.py",
     .taxonomy = "gating/sparse/by patch",
     .summary = "the tokens of a patch share its scores, so they choose together",
     .equation = "s_t = s'_{f(t)},  f(t) = first token of t's patch,  s' = scores of the wrapped scorer\n"
                 "pool = mean: s_t = mean of s' over the patch",
     .claims = {.reads_other_tokens = true}});

}  // namespace collegium::route
