// Training: tokens are assigned to experts so that loads are equal and the sum of the scores is the largest there is
// (a linear assignment problem); evaluation: each token takes its best expert. P073 (BASE layers), section 3.1 (eq. 2)
// and 3.2. What is compared are the logits where the scorer has them (the paper's dot products), else the scores.
//
// Solved by Bertsekas' auction for classes of similar objects (Bertsekas and Castanon 1989), with epsilon scaling: the
// value found is within epsilon * N of the best. Memory is linear in N E. When E does not divide N, loads differ by at
// most one: each expert has floor(N / E) slots that must be filled and one optional slot, and stand-ins of value 0,
// which may sit in optional slots only, take what is left over.
// Assumed: no shuffling of tokens between workers (section 3.3), because one process sees the whole batch.
//
// N real tokens, E experts, 2 E classes (0 to E - 1 must be filled, E to 2 E - 1 are optional), P persons = tokens and
// stand-ins.
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <queue>

#include "collegium/kernels/top_k.h"
#include "collegium/route/stages.h"
#include "collegium/route/turning.h"

namespace collegium::route {
namespace {

constexpr Selector::Claims kBalancedClaims = {.chooser = Chooser::token, .is_causal_in_training = false};
constexpr double kUnbounded = std::numeric_limits<double>::infinity();

class Auction {
 public:
  Auction(const double* value, int64_t n_tokens, int64_t n_experts)
      : value_(value),
        N_(n_tokens),
        E_(n_experts),
        persons_(n_tokens + (n_experts - n_tokens % n_experts)),
        price_(static_cast<size_t>(2 * n_experts), 0.0) {}

  /// The expert of each token.
  std::vector<int64_t> solve(double epsilon) {
    double low = 0, high = 0;  // stand-ins value everything at 0
    for (int64_t i = 0; i < N_ * E_; ++i) low = std::min(low, value_[i]), high = std::max(high, value_[i]);
    for (auto step = (high - low) / 4; step > epsilon; step /= 5) round(step);
    // Stand-ins bid, too; together all persons may lose epsilon for each token.
    round(epsilon * static_cast<double>(N_) / static_cast<double>(persons_));
    std::vector<int64_t> expert(class_of_.begin(), class_of_.begin() + N_);
    for (auto& c : expert) c %= E_;
    return expert;
  }

  /// What expert e costs: the lower price of its two classes.
  double price(int64_t e) const {
    const auto must = N_ / E_ > 0 ? price_[static_cast<size_t>(e)] : kUnbounded;
    return std::min(must, price_[static_cast<size_t>(E_ + e)]);
  }

 private:
  struct Seat {
    double price;
    int64_t person;
    bool operator>(const Seat& other) const {
      return price != other.price ? price > other.price : person > other.person;
    }
  };
  using Seats = std::priority_queue<Seat, std::vector<Seat>, std::greater<>>;

  int64_t seats(int64_t c) const { return c < E_ ? N_ / E_ : 1; }

  // One auction from the prices that are there: a person without a seat takes the cheapest seat of its best class and
  // pays so much that this class is `step` worse than its second-best class. A class costs what its cheapest seat does,
  // so all who sit in it are content when the last one is seated.
  void round(double step) {
    std::vector<Seats> taken(static_cast<size_t>(2 * E_));
    for (int64_t c = 0; c < 2 * E_; ++c)
      for (int64_t s = 0; s < seats(c); ++s)
        taken[static_cast<size_t>(c)].push({price_[static_cast<size_t>(c)], -1 - s});
    class_of_.assign(static_cast<size_t>(persons_), -1);
    std::vector<int64_t> waiting(static_cast<size_t>(persons_));
    for (int64_t i = 0; i < persons_; ++i) waiting[static_cast<size_t>(i)] = persons_ - 1 - i;
    while (!waiting.empty()) {
      const auto person = waiting.back();
      waiting.pop_back();
      const bool is_token = person < N_;
      double best = -kUnbounded, second = -kUnbounded;
      int64_t chosen = -1;
      for (int64_t c = is_token ? 0 : E_; c < 2 * E_; ++c) {
        if (seats(c) == 0) continue;
        const auto net = (is_token ? value_[person * E_ + c % E_] : 0.0) - taken[static_cast<size_t>(c)].top().price;
        if (net > best)
          second = best, best = net, chosen = c;
        else if (net > second)
          second = net;
      }
      if (second == -kUnbounded) second = best;  // one class only: nobody to outbid
      auto& seat = taken[static_cast<size_t>(chosen)];
      const auto lowest = seat.top();
      seat.pop();
      seat.push({lowest.price + (best - second) + step, person});
      class_of_[static_cast<size_t>(person)] = chosen;
      if (lowest.person >= 0) class_of_[static_cast<size_t>(lowest.person)] = -1, waiting.push_back(lowest.person);
    }
    for (size_t c = 0; c < taken.size(); ++c)
      if (!taken[c].empty()) price_[c] = taken[c].top().price;
  }

  const double* value_;
  int64_t N_, E_, persons_;
  std::vector<double> price_;
  std::vector<int64_t> class_of_;
};

// Tokens with a value that is no number want no expert more than another, and values stay where their differences are
// finite: a run that diverges is ended by its loss.
Tensor comparable(const Tensor& value_NE) {
  const auto is_sound_N1 = value_NE.isfinite().all(1, /*keepdim=*/true);
  return at::where(is_sound_N1, value_NE, at::zeros_like(value_NE)).clamp(-1e100, 1e100);
}

class BalancedAssignmentSelector final : public Selector, public Makes<BalancedAssignmentSelector, Selector> {
 public:
  using Interface = Selector;
  struct Config {
    double epsilon = 1e-3;
    bool balance_training = true;
    void visit(Fields& field) {
      field("epsilon", epsilon,
            {.help = "the assignment's value per token is at most this below the best", .unit = "score", .min = 1e-9});
      field("balance_training", balance_training, {.help = "equal loads in training; off = always the best expert"});
    }
  };
  BalancedAssignmentSelector(const Config& config, const StageInputs&) : config_(config) {}

  Assignments select(const Scores& scores, const Tensor&, const Context& context) override {
    const auto& compared = scores.logit_NE.defined() ? scores.logit_NE : scores.score_NE;
    const auto all_ME = compared.detach();
    const auto ints = all_ME.options().dtype(at::kLong);
    const auto token_N =
        context.mask_N.defined() ? context.mask_N.nonzero().flatten() : at::arange(all_ME.size(0), ints);
    const auto value_NE = context.mask_N.defined() ? all_ME.index_select(0, token_N) : all_ME;
    const auto N = value_NE.size(0), E = value_NE.size(1);
    const auto rank_N = at::zeros({N}, ints);
    if (!is_balanced(context) || N == 0) {
      const auto best = kernels::top_k(value_NE, 1);
      const auto score_N = best.score_NK.flatten();
      return {token_N, best.expert_NK.flatten(), rank_N, score_N, score_N - best.runner_up_N};
    }
    const auto exact_NE = comparable(value_NE.to(at::kCPU, at::kDouble)).contiguous();
    const auto* value = exact_NE.const_data_ptr<double>();
    Auction auction(value, N, E);
    // Bids below a double's resolution of the prices would change none.
    const auto range = (exact_NE.max() - exact_NE.min()).item<double>();
    const auto expert = auction.solve(std::max(config_.epsilon, range * 1e-9));
    // A token stays while no other expert is worth more to it at the last prices; that is exact to epsilon.
    std::vector<double> margin(static_cast<size_t>(N), kUnbounded);
    for (int64_t n = 0; n < N; ++n) {
      const auto mine = expert[static_cast<size_t>(n)];
      for (int64_t e = 0; e < E; ++e)
        if (e != mine)
          margin[static_cast<size_t>(n)] =
              std::min(margin[static_cast<size_t>(n)],
                       std::max(0.0, value[n * E + mine] - auction.price(mine) - value[n * E + e] + auction.price(e)));
    }
    const auto expert_N = at::tensor(expert, at::kLong).to(value_NE.device());
    return {token_N, expert_N, rank_N, value_NE.gather(1, expert_N.unsqueeze(1)).flatten(),
            at::tensor(margin, at::kDouble).to(value_NE)};
  }
  Reasons reasons(const Scores& scores, const Tensor&, const Context& context) override {
    if (is_balanced(context)) return {.rule = "the whole batch is assigned together, in equal loads"};
    const bool has_logits = scores.logit_NE.defined();
    const auto compared_NE = (has_logits ? scores.logit_NE : scores.score_NE).detach();
    return {.compared_NE = compared_NE,
            .turns_at_NE = kth_of_others(compared_NE, 1),
            .compares = has_logits ? "logit" : "score",
            .rule = "each token takes its best expert"};
  }
  Needs needs() const override { return {.scores = {ScoreKind::softmax, ScoreKind::sigmoid, ScoreKind::relu}}; }
  Claims claims() const override {
    auto out = kBalancedClaims;
    out.is_causal_in_training = !config_.balance_training;
    return out;
  }
  double choices_per_token() const override { return 1; }

 private:
  bool is_balanced(const Context& context) const {
    return context.phase != Phase::evaluate && config_.balance_training;
  }

  Config config_;
};

}  // namespace

extern constinit const Entry<Selector> selector_balanced_assignment = entry<BalancedAssignmentSelector>(
    {.name = "balanced_assignment",
     .paper = 73,
     .source = "Lewis 2021 (BASE layers), section 3; Bertsekas 1989, auction for similar objects",
     .taxonomy = "gating/sparse/balanced assignment",
     .summary = "training assigns equal loads of the largest total score, evaluation the best expert",
     .equation = "training: a maximises Σ_t ℓ_{t, a(t)} with ⌊N / E⌋ or ⌈N / E⌉ tokens for every expert\n"
                 "evaluation: a(t) = argmax_e ℓ_te;  ℓ = logits",
     .claims = kBalancedClaims});

}  // namespace collegium::route
