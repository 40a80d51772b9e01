// Variance constraint on expert clusters: routing probabilities should differ little inside a cluster of experts and
// much between clusters. With V_in = mean over tokens and clusters of the variance inside the cluster, and V_between =
// mean over tokens of the variance of the clusters' means (weighted by their sizes), so that V_in + V_between is the
// whole variance,
//   L = coefficient * V_in / (V_in + V_between), between 0 and 1; 0 where nothing varies.
// P100 (MoEC), clustering loss. Assumed: the share of the variance stands for the paper's comparison of both variances;
// it falls when their ratio falls, and it stays bounded when probabilities are nearly even, as in the first steps.
//
// The probabilities are the softmax of the logits, before any expert drops out.
//
// N tokens, E experts that work.
#include <ATen/ATen.h>

#include "collegium/route/stages.h"

namespace collegium::route {
namespace {

class ClusterVariance final : public Balancer, public Makes<ClusterVariance, Balancer> {
 public:
  using Interface = Balancer;
  struct Config {
    double coefficient = 0.01;
    int64_t clusters = 2;
    void visit(Fields& field) {
      field("coefficient", coefficient, {.help = "weight of the loss", .min = 0});
      field("clusters", clusters, {.help = "groups of neighbouring experts", .min = 1});
    }
  };
  ClusterVariance(const Config& config, const StageInputs& in) : config_(config), n_working_(in.n_experts - in.n_null) {
    require(config.clusters <= n_working_, "cluster_variance: ", config.clusters, " clusters cannot be made of ",
            n_working_, " experts");
  }

  std::vector<LossTerm> loss(const Scores& scores, const Decision&, const Context& context) override {
    const auto all_NE = scores.logit_NE.defined() ? scores.logit_NE.softmax(-1) : scores.score_NE;
    const auto probability_NE = all_NE.slice(1, 0, n_working_);
    Tensor inside_N, between_N;
    const auto mean_N1 = probability_NE.mean(1, true);
    for (int64_t c = 0; c < config_.clusters; ++c) {
      const auto part_NX =
          probability_NE.slice(1, c * n_working_ / config_.clusters, (c + 1) * n_working_ / config_.clusters);
      const auto center_N1 = part_NX.mean(1, true);
      const auto in_N = (part_NX - center_N1).square().sum(1);
      const auto out_N = (center_N1 - mean_N1).square().squeeze(1) * static_cast<double>(part_NX.size(1));
      inside_N = inside_N.defined() ? inside_N + in_N : in_N;
      between_N = between_N.defined() ? between_N + out_N : out_N;
    }
    const auto sum = [&](const Tensor& t_N) {
      return context.mask_N.defined() ? (t_N * context.mask_N.to(t_N.scalar_type())).sum() : t_N.sum();
    };
    const auto inside = sum(inside_N), whole = inside + sum(between_N);
    const auto raw = inside / at::where(whole.gt(0), whole, at::ones_like(whole));
    return {{"cluster_variance", raw * config_.coefficient, raw.item<double>()}};
  }
  Needs needs() const override { return {.scores = {ScoreKind::softmax}}; }

 private:
  Config config_;
  int64_t n_working_;
};

}  // namespace

extern constinit const Entry<Balancer> balancer_cluster_variance = entry<ClusterVariance>(
    {.name = "cluster_variance",
     .paper = 100,
     .source = "Xie 2022 (MoEC), clustering loss",
     .taxonomy = "training/auxiliary loss/clusters",
     .summary = "probabilities differ little inside a cluster of experts and much between clusters",
     .equation = "L = α V_in / (V_in + V_between),  V_in = Σ_t Σ_e (p_te - m_{t,c(e)})²\n"
                 "V_between = Σ_t Σ_c n_c (m_tc - m_t)²,  m: mean p_t of the n_c experts of cluster c, of all"});

}  // namespace collegium::route
