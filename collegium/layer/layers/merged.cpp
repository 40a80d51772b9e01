// SMEAR: no expert is chosen. A group of tokens is answered by one network whose parameters are the mean of all
// experts' parameters, weighted by the router's probabilities for that group, so the gradient is exact and the work
// is that of one expert plus the merging. P076 (Muqeeth 2023, SMEAR), section 3.
//
// The paper merges once per example, from hidden states averaged over the example. Here the logits of the tokens are
// averaged, which for a linear scorer is the same (the mean of Wx is W times the mean of x) and lets any softmax scorer
// stand in. For a language model a merge by example looks ahead. `segment` is causal: a segment of tokens is merged by
// the logits of the segment before it in the same sequence, the first one by the plain mean of the experts (Zhong
// 2024, Lory, section 3.1; there the first segment routes itself without gradient, which would look ahead here).
// Expert dropout as in the paper's section 4: an expert is left out of a group's mean and the rest is normalised.
// The paper's layer normalisation before the router is not here: the decoder normalises what a layer gets.
//
// N tokens, D model width, E experts, G groups (sequences or segments), W width of one stored expert tensor.
#include <ATen/ATen.h>

#include <array>
#include <limits>

#include "collegium/layer/routed_part.h"
#include "collegium/layer/soft_decision.h"
#include "collegium/route/segments.h"

namespace collegium::layer {
namespace {

enum class MergeScope { sequence, segment };
std::span<const std::string_view> enum_names(MergeScope) {
  static constexpr std::array<std::string_view, 2> names = {"sequence", "segment"};
  return names;
}

class MergedLayer final : public MoeLayer, public Makes<MergedLayer, MoeLayer> {
 public:
  using Interface = MoeLayer;
  struct Config {
    int64_t n_experts = 8;
    int64_t d_expert = 0;
    MergeScope scope = MergeScope::sequence;
    int64_t segment = 64;
    double expert_dropout = 0.1;
    Named expert{.name = "swiglu"};
    Named scorer{.name = "linear"};
    void visit(Fields& field) {
      field("n_experts", n_experts, {.help = "experts that are merged", .unit = "experts", .min = 1});
      field("d_expert", d_expert, {.help = "hidden width of one expert; 0 = 2 * d_model", .min = 0});
      field("scope", scope, {.help = "a merge a sequence (looks ahead), or a segment, from the one before (causal)"});
      field("segment", segment, {.help = "tokens per segment, with scope = segment", .unit = "tokens", .min = 1});
      field("expert_dropout", expert_dropout,
            {.help = "in training, probability that an expert is left out of a group's merge", .min = 0, .max = 1});
      field("expert", expert, {.help = "kind of expert", .catalogue = "experts"});
      field("scorer", scorer, {.help = "how much each expert counts in the merge", .catalogue = "scorers"});
    }
  };

  MergedLayer(const Config& config, const Inputs& in) : config_(config) {
    const auto d_expert = config.d_expert > 0 ? config.d_expert : 2 * in.d_model;
    experts_ = make_experts(config.expert, config.n_experts, d_expert, in);
    merged_ = make_experts(config.expert, 1, d_expert, in);
    scorer_ = find(route::scorers(), config.scorer, "scorer")
                  .make(config.scorer, {.d_model = in.d_model,
                                        .n_experts = config.n_experts,
                                        .random = in.random.at("scorer"),
                                        .options = in.options,
                                        .corpus = in.corpus,
                                        .shared = in.shared});
    require(scorer_->kind() == route::ScoreKind::softmax, "merged: the mean of the experts needs softmax scores, but '",
            config.scorer.name, "' gives others");
  }

  LayerOutput forward(const Tensor& x_ND, const route::Context& context) override {
    const auto N = x_ND.size(0), E = config_.n_experts;
    auto here = context;
    here.experts = experts_.get();
    auto scores = scorer_->score(x_ND, here);
    if (!context.losses) scores.losses.clear();
    require(scores.logit_NE.defined(), "merged: scorer '", config_.scorer.name, "' gives no logits to average");
    const auto groups = groups_of(context, N, x_ND.device());
    const auto weight_GE = weights(scores.logit_NE, groups, context);

    LayerOutput out{.y_ND = N > 0 ? apply(x_ND, weight_GE, groups.offset_G1) : at::zeros_like(x_ND),
                    .losses = std::move(scores.losses),
                    .carried_NH = scores.carried_NH};
    out.y_ND = route::only_real(out.y_ND, context);
    if (context.record) {
      out.score_NE = weight_GE.detach().index_select(0, groups.group_N).reshape({N, E});
      out.decision = soft_decision(out.score_NE, context);
      out.reasons.rule = config_.scope == MergeScope::segment
                             ? "all experts are merged into one, by the mean scores of the segment before; in the "
                               "first segment evenly"
                             : "all experts are merged into one, by the mean scores of the sequence";
    }
    return out;
  }
  void step() override { scorer_->step(); }
  LayerFacts facts() const override {
    const auto each = static_cast<double>(experts_->parameters_per_expert());
    const auto scoring = scorer_->flops_per_token();
    // A token meets one merged expert; the merge itself reads all experts once a group: a segment or a sequence.
    const auto own = each - static_cast<double>(experts_->parameters_shared());
    const auto merging = 2 * static_cast<double>(config_.n_experts) * own;
    const bool by_segment = config_.scope == MergeScope::segment;
    return {.n_experts = config_.n_experts,
            .parameters_active = each + scoring / 2,
            .flops_per_token = 2 * each + scoring + (by_segment ? merging / static_cast<double>(config_.segment) : 0),
            .flops_per_pair = scorer_->flops_per_pair(),
            .flops_per_sequence = by_segment ? 0 : merging,
            .is_causal = config_.scope == MergeScope::segment && scorer_->claims().is_causal,
            .reads_other_tokens = true,
            .needs = scorer_->needs().context};
  }
  void collect(ParameterList& list) override {
    list.child("scorer", *scorer_);
    list.child("experts", *experts_);
  }

 private:
  struct Groups : route::Segments {
    Tensor source_G;  // the group whose logits merge this one; -1 = none
  };

  Groups groups_of(const route::Context& context, int64_t N, const at::Device& device) const {
    const bool by_segment = config_.scope == MergeScope::segment;
    Groups out{route::segments_of(context, N, by_segment ? config_.segment : 0, device), {}};
    const auto& owner_G = out.sequence_G;
    const auto G = owner_G.size(0);
    out.source_G = at::arange(G, owner_G.options());
    if (by_segment) {
      auto follows_G = at::zeros({G}, owner_G.options().dtype(at::kBool));
      if (G > 1) follows_G.slice(0, 1).copy_(owner_G.slice(0, 1).eq(owner_G.slice(0, 0, G - 1)));
      out.source_G = at::where(follows_G, out.source_G - 1, -1);
    }
    return out;
  }

  // Each group's probabilities, from the mean logits of its source's real tokens. [G, E]
  Tensor weights(const Tensor& logit_NE, const Groups& groups, const route::Context& context) const {
    const auto G = groups.source_G.size(0), E = logit_NE.size(1);
    const auto plain = logit_NE.options().requires_grad(false);
    const auto real_N = route::real_tokens(context, logit_NE.size(0), plain);
    const auto count_G = at::zeros({G}, plain).index_add(0, groups.group_N, real_N);
    const auto sum_GE = at::zeros({G, E}, plain).index_add(0, groups.group_N, logit_NE * real_N.unsqueeze(1));
    const auto mean_GE = sum_GE / count_G.clamp_min(1).unsqueeze(1);
    const auto has_source_G1 = groups.source_G.ge(0).to(plain.dtype()).unsqueeze(1);
    const auto source_GE = mean_GE.index_select(0, groups.source_G.clamp_min(0)) * has_source_G1;
    if (context.phase == route::Phase::evaluate || config_.expert_dropout == 0) return source_GE.softmax(1);
    auto dropped_GE = context.random.at("expert_dropout").uniform({G, E}, 0, 1, plain).lt(config_.expert_dropout);
    dropped_GE = dropped_GE.logical_and(dropped_GE.all(1, /*keepdim=*/true).logical_not());  // someone has to work
    return source_GE.masked_fill(dropped_GE, -std::numeric_limits<float>::infinity()).softmax(1);
  }

  // One expert per group: the stored tensors of all experts [E, ...] become those of the groups [G, ...].
  Tensor apply(const Tensor& x_ND, const Tensor& weight_GE, const Tensor& offset_G1) {
    const auto from = parameters_of(*experts_);
    const auto to = parameters_of(*merged_);
    for (size_t i = 0; i < from.size(); ++i) {
      const auto& stored = *from[i].tensor;
      if (stored.size(0) != weight_GE.size(1)) {  // all experts share it: the mean is what it was
        *to[i].tensor = stored;
        continue;
      }
      auto sizes = stored.sizes().vec();
      sizes[0] = weight_GE.size(0);
      const auto stored_EW = stored.reshape({stored.size(0), -1});
      *to[i].tensor = at::matmul(weight_GE.to(stored.scalar_type()), stored_EW).reshape(sizes);
    }
    auto y_ND = merged_->rows(x_ND, offset_G1);
    for (const auto& p : to) *p.tensor = Tensor();  // the merge lives on in the graph only
    return y_ND;
  }

  Config config_;
  std::unique_ptr<Experts> experts_, merged_;
  std::unique_ptr<route::Scorer> scorer_;
};

}  // namespace

extern constinit const Entry<MoeLayer> layer_merged = entry<MergedLayer>(
    {.name = "merged",
     .paper = 76,
     .source = "Muqeeth 2023 (SMEAR), section 3; by segment: Zhong 2024 (Lory), section 3.1",
     .taxonomy = "architecture/soft/parameter merging",
     .summary = "one expert whose parameters are the router's weighted mean of all experts'",
     .equation = "y_t = FFN(x_t; Σ_e p_e θ_e),  p = softmax(mean of W x),  θ_e = parameters of expert e\n"
                 "mean over t's sequence, or the segment before t's (the first one: p = 1 / E)",
     .claims = {.has_assignment = false}});

}  // namespace collegium::layer
