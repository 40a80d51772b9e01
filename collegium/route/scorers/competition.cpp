// Routing by competition: on some training steps every expert answers, a token goes to the experts with the strongest
// response (mean softplus of the output, softmax over experts), and a router learns to imitate the outcome (mean
// squared error between its probabilities and the responses', which are taken as given). On all other steps, and
// outside training, the router decides alone and no expert is asked. P060 (CompeteSMoE), section 3; the schedule is
// the improved version's (arXiv 2505.13380): each layer competes with a fixed probability per step.
//
// Assumed: the diversity loss between experts is left out; `temperature` is ours (the paper has 1).
//
// N tokens, D model width, E experts, of which the last n_null do no work and answer zero.
#include <ATen/ATen.h>

#include "collegium/route/wrapped_scorer.h"

namespace collegium::route {
namespace {

class CompetitionScorer final : public WrappedScorer, public Makes<CompetitionScorer, Scorer> {
 public:
  using Interface = Scorer;
  struct Config {
    Named of{.name = "linear"};
    double fraction = 0.07;
    double distillation = 1;
    double temperature = 1;
    void visit(Fields& field) {
      field("of", of, {.help = "the router that learns to imitate; softmax scores", .catalogue = "scorers"});
      field("fraction", fraction, {.help = "share of training steps on which all experts compete", .min = 0, .max = 1});
      field("distillation", distillation, {.help = "weight of the imitation loss", .min = 0});
      field("temperature", temperature, {.help = "responses are divided by it before the softmax", .min = 1e-6});
    }
  };

  CompetitionScorer(const Config& config, const StageInputs& in)
      : WrappedScorer(config.of, below(in)), config_(config), n_working_(in.n_experts - in.n_null), n_null_(in.n_null) {
    require(inner_->kind() == ScoreKind::softmax, "competition: the imitating router '", config.of.name,
            "' must give softmax scores");
  }

  Scores score(const Tensor& x_ND, const Context& context) override {
    auto out = inner_->score(x_ND, context);
    if (!competes(context)) return out;
    const auto imitated_NE = out.score_NE;
    out.logit_NE = responses(x_ND.to(router_dtype(x_ND)), *context.experts) / config_.temperature;
    out.score_NE = out.logit_NE.softmax(-1);

    const auto outcome_NE = out.score_NE.detach();
    const auto real_N = real_tokens(context, x_ND.size(0), outcome_NE.options());
    const auto mean = [&](const Tensor& t_N) { return (t_N * real_N).sum() / real_N.sum().clamp_min(1); };
    const auto error = mean((imitated_NE - outcome_NE).square().mean(1));
    out.losses.push_back({"distillation", error * config_.distillation, error.item<double>()});
    // For people only: how often both would send a token to the same expert first.
    const auto agrees_N = imitated_NE.detach().argmax(1).eq(outcome_NE.argmax(1)).to(real_N.scalar_type());
    out.losses.push_back({"agreement", at::zeros({}, real_N.options()), mean(agrees_N).item<double>()});
    return out;
  }
  Needs needs() const override {
    auto out = inner_->needs();
    out.context.experts = true;
    return out;
  }

 private:
  bool competes(const Context& context) const {
    return context.phase != Phase::evaluate && context.random.at("competition").uniform(0) < config_.fraction;
  }
  Tensor responses(const Tensor& x_ND, ExpertProbe& experts) const {
    std::vector<Tensor> by_expert;
    for (int64_t e = 0; e < n_working_; ++e) by_expert.push_back(at::softplus(experts.one(x_ND, e)).mean(1));
    for (int64_t e = 0; e < n_null_; ++e)
      by_expert.push_back(at::full({x_ND.size(0)}, std::log(2.0), x_ND.options().requires_grad(false)));
    return at::stack(by_expert, 1);
  }

  Config config_;
  int64_t n_working_, n_null_;
};

}  // namespace

extern constinit const Entry<Scorer> scorer_competition = entry<CompetitionScorer>(
    {.name = "competition",
     .paper = 60,
     .source = "Pham 2024 and Nguyen 2025 (CompeteSMoE), section 3",
     .taxonomy = "gating/sparse/competition",
     .summary = "on scheduled steps the strongest responses win, and a router learns to foresee them",
     .equation = "competing: p = softmax_e(mean softplus(FFN_e(x)) / τ);  else p = p', the wrapped scorer's\n"
                 "competing: L = α mean_te (p'_te - p_te)², p as given;  in a share of training steps"});

}  // namespace collegium::route
