// Cluster-level expert dropout: experts form clusters of neighbours; in training, a share of each cluster is taken out
// for the step, drawn anew every step, and tokens choose among the rest. Nothing is taken out in evaluation, and a
// cluster never loses its last expert. P100 (MoEC), section on cluster-level expert dropout.
//
// Softmax scores are taken over the experts that are left; other scores become zero. Logits stay as they are, because
// losses on the logits (z-loss, cluster variance) concern the router and not the dropout. A selection bias, or a k
// above the number of experts left, can still choose a dropped expert; its weight is then zero.
//
// N tokens, E experts (null experts at the end belong to no cluster).
#include <ATen/ATen.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "collegium/route/wrapped_scorer.h"

namespace collegium::route {
namespace {

class ClusterDropoutScorer final : public WrappedScorer, public Makes<ClusterDropoutScorer, Scorer> {
 public:
  using Interface = Scorer;
  struct Config {
    Named of{.name = "linear"};
    int64_t clusters = 2;
    double share = 0.5;
    void visit(Fields& field) {
      field("of", of, {.help = "the scorer whose experts drop out", .catalogue = "scorers"});
      field("clusters", clusters, {.help = "groups of neighbouring experts", .min = 1});
      field("share", share,
            {.help = "experts of each cluster that are out in a training step, rounded down", .min = 0, .max = 1});
    }
  };

  ClusterDropoutScorer(const Config& config, const StageInputs& in)
      : WrappedScorer(config.of, below(in)),
        config_(config),
        n_experts_(in.n_experts),
        n_working_(in.n_experts - in.n_null) {
    require(config.clusters <= n_working_, "cluster_dropout: ", config.clusters, " clusters cannot be made of ",
            n_working_, " experts");
    require(inner_->kind() != ScoreKind::none, "cluster_dropout: scorer '", config.of.name, "' gives no scores");
  }

  Scores score(const Tensor& x_ND, const Context& context) override {
    auto out = inner_->score(x_ND, context);
    if (context.phase == Phase::evaluate) return out;
    const auto gone_E = dropped(context.random.at("cluster_dropout")).to(out.score_NE.device());
    if (inner_->kind() == ScoreKind::softmax && out.logit_NE.defined())
      out.score_NE = out.logit_NE.masked_fill(gone_E, -std::numeric_limits<float>::infinity()).softmax(-1);
    else
      out.score_NE = out.score_NE.masked_fill(gone_E, 0);
    return out;
  }

 private:
  // True for the experts that are out: of each cluster those with the smallest draws. bool [E]
  Tensor dropped(const Random& random) const {
    auto gone_E = at::zeros({n_experts_}, at::kBool);
    auto* gone = gone_E.mutable_data_ptr<bool>();
    for (int64_t c = 0; c < config_.clusters; ++c) {
      const auto begin = c * n_working_ / config_.clusters, end = (c + 1) * n_working_ / config_.clusters;
      std::vector<int64_t> members(static_cast<size_t>(end - begin));
      std::iota(members.begin(), members.end(), begin);
      std::stable_sort(members.begin(), members.end(), [&](int64_t a, int64_t b) {
        return random.uniform(static_cast<uint64_t>(a)) < random.uniform(static_cast<uint64_t>(b));
      });
      const auto out =
          std::min(static_cast<int64_t>(config_.share * static_cast<double>(end - begin)), end - begin - 1);
      for (int64_t i = 0; i < out; ++i) gone[members[static_cast<size_t>(i)]] = true;
    }
    return gone_E;
  }

  Config config_;
  int64_t n_experts_, n_working_;
};

}  // namespace

extern constinit const Entry<Scorer> scorer_cluster_dropout = entry<ClusterDropoutScorer>(
    {.name = "cluster_dropout",
     .paper = 100,
     .source = "Xie 2022 (MoEC), cluster-level expert dropout",
     .taxonomy = "training/regularisation/expert dropout",
     .summary = "in training, a share of each cluster's experts is out for the step",
     .equation = "training: p = softmax over the experts left of ℓ,  ℓ = logits of the wrapped scorer\n"
                 "left: of each cluster of n all but min(n - 1, ⌊share · n⌋), drawn each step;  evaluation: all"});

}  // namespace collegium::route
