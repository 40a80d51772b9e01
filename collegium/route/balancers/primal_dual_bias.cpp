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
//   lagrangian_fell     1 where choosing anew on this pass's scores after the step lowers the Lagrangian
//   lagrangian_error    |its change - (what tokens gain by switching + sum of (b' - b)_e (A_e - L))|, over 1 + |it|
//   fall_broken         1 where it rose though too few tokens moved to undo what the step takes away
//   preference_broken   share of the tokens that moved, and not to an expert whose bias rose more than that of the left
//   deviation_broken    1 where max_e |A_e - L| grew, beyond the largest change of one load
//   settled_deviation   max_e |A_e - L| / L in the last quarter of `settle_steps` steps on one pass's scores
//   settled_broken      1 where that is more than one step changed a load by
//   regret              sum over `regret_steps` steps n from a bias of zero of f_n(b_n) - f_n(b*), f_n over 64 tokens
//                       drawn anew from one pass, b* the best fixed bias for all of its tokens;
//                       f(b) = mean over tokens of the sum of the K best s + b, less K/E sum of b
//   regret_growth       its growth in the last three quarters of the steps over that in the three quarters of the
//                       first quarter: 1 for a logarithm, 2 for a root, 4 for a line
// Nothing is said where the selector does not take each token's K best by score and this bias alone. Assumed: what a
// pass would do alone is what is checked, so with accumulation the step itself is another one; the paper's own
// constants were not at hand.
//
// N tokens, E experts, K choices, M tokens drawn for one step, S steps.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <array>
#include <cmath>
#include <functional>

#include "collegium/kernels/top_k.h"
#include "collegium/route/load_bias.h"

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

double sum_of(const Tensor& t) {
  return t.sum().item<double>();
}

// Who is chosen under a bias, and what follows.
struct Chosen {
  Tensor chosen_NE, load_E;  // bool; double

  Chosen(const Tensor& score_NE, const Tensor& bias_E, int64_t k)
      : chosen_NE(at::zeros_like(score_NE, at::kBool)
                      .scatter_(1, kernels::top_k(score_NE, k, bias_E).expert_NK.to(score_NE.device()), true)),
        load_E(chosen_NE.sum(0).to(at::kDouble)) {}

  Tensor excess_E() const { return load_E - load_E.mean(); }
  double deviation() const { return excess_E().abs().max().item<double>(); }
  double lagrangian(const Tensor& score_NE, const Tensor& bias_E) const {
    return sum_of(score_NE * chosen_NE) + sum_of(bias_E * excess_E());
  }
};

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
    if (score_NE.size(0) == 0) return {};
    const auto k = decision.n_asked() / score_NE.size(0);
    if (k < 1 || k > score_NE.size(1) || decision.n_asked() % score_NE.size(0) != 0) return {};
    const Chosen now(score_NE, bias_E_, k);
    if (!is_choice_of(now, decision)) return {};
    if (checks) check_step(score_NE, now, k, say);
    if (settles) check_settling(score_NE, k, say);
    if (regrets) check_regret(score_NE, k, context.random.at("regret"), say);
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

  // Computed here in double, where a selector that compares in float may decide a tie otherwise.
  static bool is_choice_of(const Chosen& now, const Decision& decision) {
    const auto apart = sum_of((decision.asked_E().to(now.load_E) - now.load_E).abs());
    return apart <= 2 + 0.01 * static_cast<double>(decision.n_asked());
  }

  void check_step(const Tensor& score_NE, const Chosen& now, int64_t k, const Say& say) const {
    const auto change_E = change_of(now.load_E, steps_.item<int64_t>() + 1);
    const auto bias_E = bias_E_ + change_E;
    const Chosen then(score_NE, bias_E, k);
    const auto left_NE = now.chosen_NE.logical_and(then.chosen_NE.logical_not());
    const auto entered_NE = then.chosen_NE.logical_and(now.chosen_NE.logical_not());
    const auto moved = sum_of(entered_NE), taken = -sum_of(change_E * now.excess_E());
    const auto benefit = sum_of((score_NE + bias_E) * (then.chosen_NE.to(at::kDouble) - now.chosen_NE.to(at::kDouble)));
    const auto before = now.lagrangian(score_NE, bias_E_);
    const auto change = then.lagrangian(score_NE, bias_E) - before;
    const bool fell = change <= 1e-12 * (1 + std::abs(before));
    // A switch gains at most what the biases of two experts moved apart.
    const auto spread = (change_E.max() - change_E.min()).item<double>();
    say("lagrangian_fell", fell);
    say("lagrangian_error", std::abs(change - (benefit - taken)) / (1 + std::abs(before)));
    say("fall_broken", moved * spread < taken && !fell);

    constexpr double kFar = 1e9;
    const auto left_N = at::where(left_NE, change_E, -kFar).amax(1),
               entered_N = at::where(entered_NE, change_E, kFar).amin(1);
    const auto moved_N = entered_NE.any(1);
    const auto broken = sum_of(moved_N.logical_and(left_N.ge(entered_N)));
    say("preference_broken", broken / std::max(1.0, sum_of(moved_N)));
    const auto largest = (then.load_E - now.load_E).abs().max().item<double>();
    say("deviation_broken", then.deviation() > std::max(now.deviation(), largest));
  }

  void check_settling(const Tensor& score_NE, int64_t k, const Say& say) const {
    const auto step = steps_.item<int64_t>() + 1;
    auto bias_E = bias_E_;
    Chosen now(score_NE, bias_E, k);
    double late = 0, largest = 0;
    for (int64_t i = 0; i < config_.settle_steps; ++i) {
      bias_E = bias_E + change_of(now.load_E, step + i);
      const Chosen then(score_NE, bias_E, k);
      largest = std::max(largest, (then.load_E - now.load_E).abs().max().item<double>());
      if (i >= config_.settle_steps - config_.settle_steps / 4) late = std::max(late, then.deviation());
      now = then;
    }
    say("settled_deviation", late / now.load_E.mean().item<double>());
    say("settled_broken", late > largest);
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
      const auto slope_E = Chosen(score_NE, bias_E, k).excess_E() / static_cast<double>(score_NE.size(0));
      const auto next_E = bias_E - length * slope_E;
      const auto value = dual_N(score_NE, next_E, k).mean().item<double>();
      if (value < least)
        least = value, bias_E = next_E;
      else
        length /= 2;
    }
    return bias_E;
  }

  void check_regret(const Tensor& score_NE, int64_t k, const Random& random, const Say& say) const {
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
      bias_E = bias_E + change_of(Chosen(drawn_ME, bias_E, k).load_E, i + 1);
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
