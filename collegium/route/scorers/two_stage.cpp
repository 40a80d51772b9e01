// Routing in two stages. First a router on hidden states decides, with sigmoid scores and a balance loss, and a light
// router, which sees the token id alone (a small embedding against one centroid per expert), learns to foresee its
// first choice by cross entropy. After `freeze_at` optimiser steps the light router decides and gets no gradient any
// more, so a token id keeps its expert; how much the expert counts is still the sigmoid score of the hidden state. P078
// (StableMoE), section 3.
//
// A frozen token id has one expert: all others are closed to it, so that no margin is told of a choice that is none.
//
// The balance loss is the paper's: sum over experts of (load - mean load) / mean load * the scores of its tokens, over
// first choices. Assumed: both losses are means over tokens. Made for one expert a token: in stage 2 all other scores
// are zero.
//
// N tokens, D model width, E experts, V rows of the light embedding, W its width.
#include <ATen/ATen.h>

#include "collegium/route/wrapped_scorer.h"

namespace collegium::route {
namespace {

constexpr int64_t kRowsOfUnknownVocabulary = 1024;

class TwoStageScorer final : public WrappedScorer, public Makes<TwoStageScorer, Scorer> {
 public:
  using Interface = Scorer;
  struct Config {
    Named of{.name = "linear", .fields = table({{"activation", "sigmoid"}})};
    int64_t freeze_at = 1000;
    int64_t light_width = 50;
    int64_t rows = 0;
    double balance = 0.3;
    double distillation = 1;
    void visit(Fields& field) {
      field("of", of, {.help = "the router of the first stage; sigmoid scores", .catalogue = "scorers"});
      field("freeze_at", freeze_at,
            {.help = "the second stage begins after so many", .unit = "optimiser steps", .min = 0});
      field("light_width", light_width, {.help = "width of the light router's embeddings", .min = 1});
      field("rows", rows,
            {.help = "token embeddings of the light router; 0 = the vocabulary. Ids beyond wrap around", .min = 0});
      field("balance", balance, {.help = "weight of the balance loss in the first stage", .min = 0});
      field("distillation", distillation, {.help = "weight of the light router's loss in the first stage", .min = 0});
    }
  };

  TwoStageScorer(const Config& config, const StageInputs& in) : WrappedScorer(config.of, below(in)), config_(config) {
    require(inner_->kind() == ScoreKind::sigmoid, "two_stage: the first router '", config.of.name,
            "' must give sigmoid scores");
    const auto rows = config.rows > 0            ? config.rows
                      : in.corpus.vocabulary > 0 ? in.corpus.vocabulary
                                                 : kRowsOfUnknownVocabulary;
    const auto std = std::pow(static_cast<double>(config.light_width), -0.25);  // products have variance one
    token_VW_ = in.random.at("token").normal({rows, config.light_width}, std, in.options).requires_grad_(true);
    centroid_EW_ =
        in.random.at("centroid").normal({in.n_experts, config.light_width}, std, in.options).requires_grad_(true);
    steps_ = at::zeros({}, at::TensorOptions().dtype(at::kLong).device(in.options.device_opt()));
  }

  Scores score(const Tensor& x_ND, const Context& context) override {
    auto out = inner_->score(x_ND, context);
    const auto dtype = out.score_NE.scalar_type();
    const auto light = [&] {
      const auto token_NW = at::embedding(token_VW_, context.token_id_N.remainder(token_VW_.size(0)));
      return at::linear(token_NW.to(dtype), centroid_EW_.to(dtype));
    };
    if (is_frozen()) {
      const auto chosen_N1 = light().detach().argmax(1, true);
      const auto chosen_NE = at::zeros_like(out.score_NE.detach()).scatter_(1, chosen_N1, 1);
      // Above zero even where the sigmoid is not, or the choice would be lost.
      out.score_NE = out.score_NE.clamp_min(1e-30) * chosen_NE;
      out.open_NE = chosen_NE.to(at::kBool);
      return out;
    }
    const auto real_N = real_tokens(context, x_ND.size(0), out.score_NE.options());
    const auto count = real_N.sum().clamp_min(1);
    const auto chosen_N1 = out.score_NE.detach().argmax(1, true);

    const auto E = out.score_NE.size(1);
    const auto load_E = at::zeros({E}, real_N.options()).index_add(0, chosen_N1.squeeze(1), real_N);
    const auto mean_load = count / static_cast<double>(E);
    const auto own_E = at::zeros({E}, real_N.options())
                           .index_add(0, chosen_N1.squeeze(1), out.score_NE.gather(1, chosen_N1).squeeze(1) * real_N);
    const auto uneven = ((load_E - mean_load) / mean_load * own_E).sum() / count;
    out.losses.push_back({"stable_balance", uneven * config_.balance, uneven.item<double>()});

    const auto miss_N = -light().log_softmax(1).gather(1, chosen_N1).squeeze(1);
    const auto miss = (miss_N * real_N).sum() / count;
    out.losses.push_back({"light_router", miss * config_.distillation, miss.item<double>()});
    return out;
  }
  Needs needs() const override {
    auto out = inner_->needs();
    out.context.token_ids = true;
    return out;
  }
  Claims claims() const override {
    auto claims = inner_->claims();
    claims.closes_experts = true;
    return claims;
  }
  void step() override {
    WrappedScorer::step();
    steps_ += 1;
  }
  double flops_per_token() const override {
    return inner_->flops_per_token() + 2.0 * static_cast<double>(centroid_EW_.numel());
  }
  void collect(ParameterList& list) override {
    WrappedScorer::collect(list);
    list.parameter("token", token_VW_, ParameterKind::embedding);
    list.parameter("centroid", centroid_EW_, ParameterKind::embedding);
    list.buffer("steps", steps_);
  }

 private:
  bool is_frozen() const { return steps_.item<int64_t>() >= config_.freeze_at; }

  Config config_;
  Tensor token_VW_, centroid_EW_, steps_;
};

}  // namespace

extern constinit const Entry<Scorer> scorer_two_stage = entry<TwoStageScorer>(
    {.name = "two_stage",
     .paper = 78,
     .source = "Dai 2022 (StableMoE), section 3",
     .taxonomy = "gating/sparse/distilled",
     .summary = "a learned router first, then its imitation by token id, frozen",
     .equation = "first: s = s',  L = β Σ_e (E n_e / N - 1) Σ_{t → e} s_te / N - γ mean log softmax(C v)_a\n"
                 "then: s_e = s'_e for e = argmax C v, else 0;  v = embedding of the token id, a = argmax s",
     .claims = {.closes_experts = true}});

}  // namespace collegium::route
