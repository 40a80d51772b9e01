// The bias update of loss-free balancing as one step an iteration of a primal-dual method, which says on each pass of
// training whether it does what is proved of it. P108 (Han and Zhong 2025, arXiv 2512.03915).
//
// The assignment problem: give each of N tokens K experts, each expert L = N K / E tokens, with the largest sum of
// scores. With a multiplier b_e (the bias) for each expert's load A_e its Lagrangian is
//   Lagrangian(x, b) = sum of the scores of the assignments x + sum over e of b_e (A_e(x) - L).
// The router's top-k over s + b maximises it over x, the balancer moves b against A - L.
//
// move = sign is P084's update, move = load a subgradient step: by how far a load is from even. decay = harmonic
// divides the rate by the number of the step, the choice under which the paper's regret is logarithmic. What is said
// (terms without weight; abstract (i) to (iii), and the online setting):
//   checked             1 for a pass that a check was due on and could be made of, 0 for one that was passed over
//   lagrangian_fell     1 where choosing anew on this pass's scores after the step lowers the Lagrangian
//   lagrangian_error    |its change - (what tokens gain by switching + sum of (b' - b)_e (A_e - L))|, over 1 + |it|
//   fall_broken         1 where it rose though too few tokens moved to undo what the step takes away
//   preference_broken   share of the tokens that moved, and not to an expert with less load than the one left
//   deviation_broken    1 where max_e |A_e - L| grew, beyond the largest change of one load
//   settled_deviation   max_e |A_e - L| / L in the last quarter of `settle_steps` steps on one pass's scores
//   settled_broken      1 where that is more than one step changed a load by
//   regret              sum over `regret_steps` steps n from a bias of zero of f_n(b_n) - f_n(b*), f_n over 64 tokens
//                       drawn anew from one pass, b* the best fixed bias for all of its tokens;
//                       f(b) = mean over tokens of the sum of the K best s + b, less K/E sum of b
//   regret_growth       its growth in the last three quarters of the steps over that in the three quarters of the
//                       first quarter: 1 for a logarithm, 2 for a root, 4 for a line
// Passed over is where the selector does not take each token's K best by score and this bias alone. Assumed: what a
// pass would do alone is what is checked, so with accumulation the step itself is another one; the paper's own
// constants were not at hand.
//
// N tokens, E experts, K choices, M tokens drawn for one step, S steps.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <array>
#include <functional>

#include "collegium/route/load_bias.h"
#include "collegium/route/primal_dual.h"

namespace collegium::route {
namespace {

enum class Move { sign, load };
std::span<const std::string_view> enum_names(Move) {
  static constexpr std::array<std::string_view, 2> names = {"sign", "load"};
  return names;
}

enum class Decay { constant, harmonic };
std::span<const std::string_view> enum_names(Decay) {
  static constexpr std::array<std::string_view, 2> names = {"constant", "harmonic"};
  return names;
}

class PrimalDualBias final : public LoadBias, public Makes<PrimalDualBias, Balancer> {
 public:
  using Interface = Balancer;
  struct Config {
    double rate = 0.001;
    Move move = Move::sign;
    Decay decay = Decay::constant;
    int64_t check_every = 0;
    int64_t settle_every = 0;
    int64_t settle_steps = 400;
    int64_t regret_every = 0;
    int64_t regret_steps = 4096;
    void visit(Fields& field) {
      field("rate", rate, {.help = "how far a bias moves per optimiser step", .unit = "score", .min = 0});
      field("move", move, {.help = "by the rate whatever the load, or by the rate for each even load above or below"});
      field("decay", decay, {.help = "of the rate: constant, or divided by the number of the step"});
      field("check_every", check_every,
            {.help = "steps between checks of one step: lagrangian_fell, lagrangian_error, fall_broken, "
                     "preference_broken and deviation_broken; 0 = never",
             .unit = "steps",
             .min = 0});
      field("settle_every", settle_every,
            {.help = "steps between checks of how even loads become on fixed scores: settled_deviation, "
                     "settled_broken; 0 = never",
             .unit = "steps",
             .min = 0});
      field("settle_steps", settle_steps, {.help = "steps of such a check", .unit = "steps", .min = 4});
      field(
          "regret_every", regret_every,
          {.help = "steps between checks of regret and regret_growth, on tokens drawn from the step's pass; 0 = never",
           .unit = "steps",
           .min = 0});
      field("regret_steps", regret_steps, {.help = "steps of such a check", .unit = "steps", .min = 64});
    }
  };

  PrimalDualBias(const Config& config, const StageInputs& in)
      : LoadBias(in), config_(config), steps_(at::zeros({1}, bias_E_.options().dtype(at::kLong))) {}

  std::vector<LossTerm> loss(const Scores& scores, const Decision& decision, const Context& context) override {
    if (context.phase != Phase::train) return {};
    const at::NoGradGuard no_grad;
    const auto step = steps_.item<int64_t>() + 1;
    const auto is_due = [&](int64_t every) { return every > 0 && step % every == 0; };
    const bool checks = is_due(config_.check_every), settles = is_due(config_.settle_every);
    const bool regrets = is_due(config_.regret_every);
    if (!checks && !settles && !regrets) return {};
    std::vector<LossTerm> out;
    const auto say = [&](const char* name, double raw) {
      out.push_back({name, at::zeros({}, scores.score_NE.options()), raw});
    };
    const auto score_NE = real_scores(scores, context);
    const auto k = choices_per_token(decision, score_NE);
    const bool is_checked = k > 0 && is_choice_of(BiasedChoice(score_NE, bias_E_, k), decision);
    say("checked", is_checked);
    if (!is_checked) return out;
    if (checks) say_step(score_NE, k, step, say);
    if (settles) say_settling(score_NE, k, step, say);
    if (regrets) say_regret(score_NE, k, context.random.at("regret"), say);
    return out;
  }
  void step() override {
    steps_ += 1;
    bias_E_ += change_of(pending_E_, steps_.item<int64_t>());
    pending_E_.zero_();
  }
  void collect(ParameterList& list) override {
    LoadBias::collect(list);
    list.buffer("steps", steps_);
  }

 private:
  using Say = std::function<void(const char*, double)>;

  // What step number `step`, from 1, adds to the bias after this load.
  Tensor change_of(const Tensor& load_E, int64_t step) const {
    const auto rate = config_.decay == Decay::harmonic ? config_.rate / static_cast<double>(step) : config_.rate;
    if (config_.move == Move::sign) return rate * (load_E.mean() - load_E).sign();
    return rate * (1 - load_E / load_E.mean().clamp_min(1e-30));
  }

  static Tensor real_scores(const Scores& scores, const Context& context) {
    auto score_NE = scores.score_NE.detach().to(at::kDouble);
    return context.mask_N.defined() ? score_NE.index({context.mask_N}) : score_NE;
  }

  // 0 where tokens do not ask for equally many.
  static int64_t choices_per_token(const Decision& decision, const Tensor& score_NE) {
    const auto N = score_NE.size(0), asked = decision.n_asked();
    return N > 0 && asked % N == 0 && asked / N <= score_NE.size(1) ? asked / N : 0;
  }

  // Computed here in double, where a selector that compares in float may decide a tie otherwise.
  static bool is_choice_of(const BiasedChoice& now, const Decision& decision) {
    const auto apart = (decision.asked_E().to(now.load_E) - now.load_E).abs().sum().item<double>();
    return apart <= 2 + 0.01 * static_cast<double>(decision.n_asked());
  }

  void say_step(const Tensor& score_NE, int64_t k, int64_t step, const Say& say) const {
    const auto change_E = change_of(BiasedChoice(score_NE, bias_E_, k).load_E, step);
    const auto checks = check_step(score_NE, bias_E_, change_E, k);
    say("lagrangian_fell", checks.fell);
    say("lagrangian_error", checks.error);
    say("fall_broken", checks.fall_broken);
    say("preference_broken", checks.preference_broken);
    say("deviation_broken", checks.deviation_broken);
  }

  void say_settling(const Tensor& score_NE, int64_t k, int64_t step, const Say& say) const {
    const auto later = [&](const Tensor& load_E, int64_t i) { return change_of(load_E, step + i); };
    const auto checks = check_settling(score_NE, bias_E_, k, config_.settle_steps, later);
    say("settled_deviation", checks.deviation);
    say("settled_broken", checks.is_broken);
  }

  // Per token: the sum of the K best s + b, less K / E sum of b; over rows of scores. [N]
  static Tensor dual_N(const Tensor& score_NE, const Tensor& bias_E, int64_t k) {
    const auto even = static_cast<double>(k) / static_cast<double>(score_NE.size(1));
    return std::get<0>(at::topk(score_NE + bias_E, k, 1, true, false)).sum(1) - even * bias_E.sum();
  }

  // The fixed bias with the least mean of dual_N, by subgradient steps that are halved where they do not help.
  static Tensor best_bias(const Tensor& score_NE, int64_t k) {
    auto bias_E = at::zeros({score_NE.size(1)}, score_NE.options());
    auto least = dual_N(score_NE, bias_E, k).mean().item<double>();
    double length = 1;
    for (int i = 0; i < 300; ++i) {
      const auto slope_E = BiasedChoice(score_NE, bias_E, k).excess_E() / static_cast<double>(score_NE.size(0));
      const auto next_E = bias_E - length * slope_E;
      const auto value = dual_N(score_NE, next_E, k).mean().item<double>();
      if (value < least)
        least = value, bias_E = next_E;
      else
        length /= 2;
    }
    return bias_E;
  }

  void say_regret(const Tensor& score_NE, int64_t k, const Random& random, const Say& say) const {
    constexpr int64_t M = 64;
    const auto S = config_.regret_steps;
    const auto token_SM = (random.uniform({S, M}, 0, 1, score_NE.options()) * static_cast<double>(score_NE.size(0)))
                              .floor()
                              .to(at::kLong);
    const auto best_E = best_bias(score_NE, k);
    auto bias_E = at::zeros_like(best_E);
    double sum = 0, early = 0, middle = 0;
    for (int64_t i = 0; i < S; ++i) {
      const auto drawn_ME = score_NE.index_select(0, token_SM[i]);
      sum += (dual_N(drawn_ME, bias_E, k) - dual_N(drawn_ME, best_E, k)).mean().item<double>();
      bias_E = bias_E + change_of(BiasedChoice(drawn_ME, bias_E, k).load_E, i + 1);
      if (i + 1 == S / 16) early = sum;
      if (i + 1 == S / 4) middle = sum;
    }
    say("regret", sum);
    // Where all experts suit alike, no bias is better than another, and there is no regret to grow.
    say("regret_growth", middle == early ? 0 : (sum - middle) / (middle - early));
  }

  Config config_;
  Tensor steps_;
};

}  // namespace

extern constinit const Entry<Balancer> balancer_primal_dual_bias = entry<PrimalDualBias>(
    {.name = "primal_dual_bias",
     .paper = 108,
     .source = "Han and Zhong 2025 (A Theoretical Framework for Auxiliary-Loss-Free Load Balancing)",
     .taxonomy = "training/balance/bias",
     .summary = "the loss-free bias as a primal-dual method, and whether each training pass keeps what is proved of it",
     .equation = "b_e ← b_e + rate_n · sign(L - A_e), or rate_n · (1 - A_e / L),  rate_n = rate or rate / n\n"
                 "Lagrangian: Σ_{assignments} s + Σ_e b_e (A_e - L),  A_e = load of e,  L = N K / E"});

}  // namespace collegium::route
