// Two levels of linear scorers: groups of neighbouring experts first, experts inside each group then. Probabilities
// multiply, so the scores of all experts are one distribution and a group's scores add up to the group's probability:
//
//   score(e) = p(g) p(e | g),   p(g) = softmax(W_1 x),   p(e | g) = softmax over the group of (W_2 x)
//
// Shazeer 2017, appendix B (hierarchical mixtures of experts). There only the second levels of the chosen groups are
// worked out; here all are, which costs as much as a linear scorer and lets losses see every expert. Without the
// paper's noise (jitter of other scorers plays its part). Logits are the scores' logarithms.
//
// N tokens, D model width, E experts, G groups of S = E / G experts.
#include <ATen/ATen.h>

#include <cmath>

#include "collegium/kernels/router_linear.h"
#include "collegium/route/stages.h"

namespace collegium::route {
namespace {

class HierarchicalScorer final : public Scorer, public Makes<HierarchicalScorer, Scorer> {
 public:
  using Interface = Scorer;
  struct Config {
    int64_t groups = 2;
    double init_scale = 0.1;
    void visit(Fields& field) {
      field("groups", groups, {.help = "equal groups of neighbouring experts", .unit = "groups", .min = 1});
      field("init_scale", init_scale,
            {.help = "weights start normal with standard deviation sqrt(init_scale / d_model)", .min = 0});
    }
  };

  HierarchicalScorer(const Config& config, const StageInputs& in) {
    require(in.n_experts % config.groups == 0, "hierarchical: ", in.n_experts, " experts do not divide into ",
            config.groups, " equal groups");
    const auto std = std::sqrt(config.init_scale / static_cast<double>(in.d_model));
    group_GD_ = in.random.at("group").normal({config.groups, in.d_model}, std, in.options).requires_grad_(true);
    expert_ED_ = in.random.at("expert").normal({in.n_experts, in.d_model}, std, in.options).requires_grad_(true);
  }

  Scores score(const Tensor& x_ND, const Context&) override {
    const auto dtype = router_dtype(x_ND);
    const auto N = x_ND.size(0), G = group_GD_.size(0), E = expert_ED_.size(0);
    const auto wide_ND = x_ND.to(dtype);
    const auto group_NG = kernels::router_linear(wide_ND, group_GD_.to(dtype)).log_softmax(1);
    const auto expert_NGS = kernels::router_linear(wide_ND, expert_ED_.to(dtype)).view({N, G, E / G}).log_softmax(2);
    Scores out;
    out.logit_NE = (group_NG.unsqueeze(2) + expert_NGS).reshape({N, E});
    out.score_NE = out.logit_NE.exp();
    return out;
  }
  ScoreKind kind() const override { return ScoreKind::softmax; }
  double flops_per_token() const override { return 2.0 * static_cast<double>(group_GD_.numel() + expert_ED_.numel()); }
  void collect(ParameterList& list) override {
    list.parameter("group", group_GD_, ParameterKind::embedding);
    list.parameter("expert", expert_ED_, ParameterKind::embedding);
  }

 private:
  Tensor group_GD_, expert_ED_;
};

}  // namespace

extern constinit const Entry<Scorer> scorer_hierarchical =
    entry<HierarchicalScorer>({.name = "hierarchical",
                               .source = "Shazeer 2017, appendix B",
                               .taxonomy = "gating/sparse/hierarchical",
                               .summary = "probability of a group times that of the expert inside it",
                               .equation = "p_e = P_{g(e)} Q_e,  g(e) = group of e\n"
                                           "P = softmax(W₁ x) over groups,  Q = softmax(W₂ x) inside each group"});

}  // namespace collegium::route
