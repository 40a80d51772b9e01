// Rare tokens see few experts, frequent ones see all: a rare token's training is not spread over experts that each
// see it too seldom, and frequent ones keep their choice. Wraps any scorer. P090 (MaskMoE), section 3: before
// training each id of the vocabulary gets a mask over the experts, drawn once.
//
// Frequent are the fewest ids that make up `frequent_share` of the training tokens; all others see `visible` experts,
// which a hash of layer and id chooses. The mask is a buffer, so a checkpoint restores it and the text is not counted
// again. Without a known vocabulary nothing is rare.
//
// A token with one open expert has nothing to choose: where the scorer below is one of softmax scores that judges each
// token alone, such tokens do not pass through it; their logit is 0. A plan counts them all the same.
//
// A closed expert's score is 0 and its logit the lowest; `open_NE` tells selectors, which never ask for it. Softmax
// scores are divided by their sum over the open experts, as a softmax over the open logits would be.
//
// Assumed: the share that separates frequent from rare (0.8), and one visible expert.
//
// N tokens, V vocabulary, E experts.
#include <ATen/ATen.h>

#include <algorithm>

#include "collegium/route/token_frequency.h"
#include "collegium/route/wrapped_scorer.h"

namespace collegium::route {
namespace {

class FrequencyMaskScorer final : public WrappedScorer, public Makes<FrequencyMaskScorer, Scorer> {
 public:
  using Interface = Scorer;
  struct Config {
    Named of{.name = "linear"};
    double frequent_share = 0.8;
    int64_t visible = 1;
    void visit(Fields& field) {
      field("of", of, {.help = "the scorer that is masked", .catalogue = "scorers"});
      field("frequent_share", frequent_share,
            {.help = "share of the training tokens that the frequent ids make up; they see all experts",
             .min = 0,
             .max = 1});
      field("visible", visible, {.help = "experts that a rare id sees", .unit = "experts", .min = 1});
    }
  };

  FrequencyMaskScorer(const Config& config, const StageInputs& in) : WrappedScorer(config.of, in) {
    require(inner_->kind() != ScoreKind::none, "frequency_mask: scorer '", config.of.name, "' has no scores to mask");
    const auto n_working = in.n_experts - in.n_null;
    require(config.visible <= n_working, "frequency_mask: visible = ", config.visible, " is more than the ", n_working,
            " experts there are");
    auto open_VE = at::ones({in.corpus.vocabulary, in.n_experts}, at::kByte);
    if (in.corpus.count_V.defined()) close_rare(open_VE, config, in);
    open_VE_ = open_VE.to(in.options.device());
  }

  Scores score(const Tensor& x_ND, const Context& context) override {
    const auto V = open_VE_.size(0);
    if (V == 0) return inner_->score(x_ND, context);
    const auto& id_N = context.token_id_N;
    const auto known = id_N.numel() == 0 || (id_N.min().item<int64_t>() >= 0 && id_N.max().item<int64_t>() < V);
    require(known, "frequency_mask: a token id is outside the vocabulary of ", V);
    const auto open_NE = open_VE_.index_select(0, id_N).to(at::kBool);
    if (!leaves_out()) return masked(inner_->score(x_ND, context), open_NE);
    const auto several_M = open_NE.sum(1).gt(1).nonzero().flatten();
    auto out = masked(inner_->score(x_ND.index_select(0, several_M), context), open_NE.index_select(0, several_M));
    const auto only_NE = open_NE.to(out.score_NE);
    out.score_NE = only_NE.index_copy(0, several_M, out.score_NE);
    if (out.logit_NE.defined()) out.logit_NE = ((1 - only_NE) * kClosedLogit).index_copy(0, several_M, out.logit_NE);
    out.open_NE = open_NE;
    return out;
  }
  Needs needs() const override {
    auto needs = inner_->needs();
    needs.context = needs.context | ContextNeeds{.token_ids = true};
    return needs;
  }
  Claims claims() const override {
    auto claims = inner_->claims();
    claims.closes_experts = true;
    return claims;
  }
  void collect(ParameterList& list) override {
    WrappedScorer::collect(list);
    list.buffer("open", open_VE_);
  }

 private:
  // The one open expert of a token has the softmax score 1, whatever the router would say.
  bool leaves_out() const { return inner_->kind() == ScoreKind::softmax && inner_->is_per_token(); }

  Scores masked(Scores out, const Tensor& open_NE) const {
    out.open_NE = open_NE;
    const auto closed_NE = open_NE.logical_not();
    out.score_NE = out.score_NE.masked_fill(closed_NE, 0);
    if (inner_->kind() == ScoreKind::softmax) {
      // Where the open scores vanish beside a closed one, the open experts share evenly.
      const auto sum_N1 = out.score_NE.sum(-1, true);
      const auto has_N1 = sum_N1.gt(0);
      const auto even_NE = out.open_NE.to(out.score_NE) / out.open_NE.sum(-1, true);
      out.score_NE = at::where(has_N1, out.score_NE / at::where(has_N1, sum_N1, at::ones_like(sum_N1)), even_NE);
    }
    if (out.logit_NE.defined()) out.logit_NE = out.logit_NE.masked_fill(closed_NE, kClosedLogit);
    return out;
  }

  static void close_rare(Tensor& open_VE, const Config& config, const StageInputs& in) {
    const auto V = in.corpus.vocabulary, E = in.n_experts, n_working = in.n_experts - in.n_null;
    const auto& count_V = in.corpus.count_V;
    require(count_V.size(0) == V, "frequency_mask: one count for each of ", V, " ids was wanted, got ",
            count_V.size(0));
    const auto frequent_V = frequent_ids(count_V, config.frequent_share);
    const auto* is_frequent = frequent_V.const_data_ptr<bool>();
    const auto hash = in.random.at("mask");
    auto* open = open_VE.mutable_data_ptr<uint8_t>();
    for (int64_t id = 0; id < V; ++id) {
      if (is_frequent[id]) continue;
      std::fill_n(open + id * E, E, uint8_t{0});
      for (int64_t i = 0; i < config.visible; ++i) {
        auto e = static_cast<int64_t>(
            hash.at(static_cast<uint64_t>(i)).below(static_cast<uint64_t>(id), static_cast<uint64_t>(n_working)));
        while (open[id * E + e]) e = (e + 1) % n_working;
        open[id * E + e] = 1;
      }
    }
  }

  Tensor open_VE_;
};

}  // namespace

extern constinit const Entry<Scorer> scorer_frequency_mask = entry<FrequencyMaskScorer>(
    {.name = "frequency_mask",
     .paper = 90,
     .source = "Su 2024 (MaskMoE), section 3",
     .taxonomy = "gating/sparse/masked",
     .summary = "rare token ids see one hashed expert, frequent ones see all",
     .equation = "p_e = m_e p'_e / Σ_j m_j p'_j,  p' = softmax scores of the wrapped scorer\n"
                 "m_e = 1 where the token id sees expert e: frequent ids see all, rare ones those of a hash",
     .claims = {.closes_experts = true}});

}  // namespace collegium::route
