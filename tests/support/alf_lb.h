// Auxiliary-loss-free load balancing as a primal-dual method, followed number by number. P108 (Han and Zhong 2025,
// arXiv 2512.03915, deterministic setting), for the update of P084 (balancer `loss_free_bias`).
//
// The assignment problem: give each of N tokens K experts, each expert L = N K / E tokens, with the largest sum of
// scores. Its Lagrangian, with a multiplier (the bias) for each expert's load A_e:
//   Lagrangian(x, b) = sum of the scores of the assignments x + sum over e of b_e (A_e(x) - L).
// The router's top-k over score + bias maximises it over x (primal step); the balancer moves b against A - L (dual
// step).
//
// N tokens, E experts, K choices.
#pragma once
#include <set>

#include "tests/support/routing.h"

namespace collegium::test {

struct Balancing {
  int64_t n_falls_promised = 0;  ///< steps on which the Lagrangian had to fall
  int64_t n_moved = 0;           ///< assignments that changed expert, over all steps
  int64_t largest_change = 0;    ///< of one expert's load in one step
  double first_deviation = 0;    ///< largest |A_e - L| before the first step
  double late_deviation = 0;     ///< the same over the last quarter of the steps
  double first_lagrangian = 0, last_lagrangian = 0;
};

/// Runs the real selector and balancer on fixed scores, and checks on each step what the theorems say of it.
inline Balancing check_balancing(const Tensor& score_NE, int64_t k, double rate, int64_t steps) {
  using namespace route;
  const auto N = score_NE.size(0), E = score_NE.size(1);
  const StageInputs inputs{.d_model = 1, .n_experts = E, .options = at::kDouble};
  const Named top_k{.name = "top_k", .fields = table({{"k", k}})};
  const Named bias{.name = "loss_free_bias", .fields = table({{"rate", rate}})};
  const auto selector = find(selectors(), top_k, "selector").make(top_k, inputs);
  const auto balancer = find(balancers(), bias, "balancer").make(bias, inputs);
  Scores scores;
  scores.score_NE = scores.logit_NE = score_NE.to(at::kDouble), scores.kind = ScoreKind::sigmoid;
  Context context;
  context.phase = Phase::train;

  const auto score = reals(scores.score_NE);
  const auto even = static_cast<double>(N * k) / static_cast<double>(E);
  struct State {
    std::vector<double> bias;
    std::vector<std::set<int64_t>> chosen;
    std::vector<double> load;
  };
  const auto route_once = [&] {
    State s{reals(balancer->bias_E()), std::vector<std::set<int64_t>>(static_cast<size_t>(N)),
            std::vector<double>(static_cast<size_t>(E))};
    const auto d = Decision::make(selector->select(scores, balancer->bias_E(), context), N, E);
    balancer->observe(d, context);
    const auto token = ints(d.token_R()), expert = ints(d.expert_R());
    for (size_t r = 0; r < token.size(); ++r) {
      s.chosen[static_cast<size_t>(token[r])].insert(expert[r]);
      ++s.load[static_cast<size_t>(expert[r])];
    }
    return s;
  };
  const auto at_token = [&](size_t n, int64_t e) { return score[n * static_cast<size_t>(E) + static_cast<size_t>(e)]; };
  const auto value = [&](size_t n, const std::set<int64_t>& of, const std::vector<double>& b) {
    double sum = 0;
    for (const auto e : of) sum += at_token(n, e) + b[static_cast<size_t>(e)];
    return sum;
  };
  const auto lagrangian = [&](const State& s) {
    double sum = 0;
    for (size_t n = 0; n < s.chosen.size(); ++n) sum += value(n, s.chosen[n], s.bias);
    for (const auto b : s.bias) sum -= b * even;
    return sum;
  };
  const auto deviation = [&](const State& s) {
    double worst = 0;
    for (const auto l : s.load) worst = std::max(worst, std::abs(l - even));
    return worst;
  };
  const auto side = [&](double load) { return load > even ? -1 : load < even ? 1 : 0; };  // where the bias moves

  Balancing out;
  auto now = route_once();
  out.first_deviation = deviation(now), out.first_lagrangian = lagrangian(now);
  bool is_identity = true, is_small_benefit = true, falls = true, prefers = true, is_one_way = true, stays = true;
  for (int64_t step = 0; step < steps; ++step) {
    balancer->step();
    const auto next = route_once();
    double benefit = 0, excess = 0;
    int64_t moved = 0;
    for (size_t n = 0; n < now.chosen.size(); ++n) {
      std::vector<int64_t> left, entered;
      for (const auto e : now.chosen[n])
        if (!next.chosen[n].count(e)) left.push_back(e);
      for (const auto e : next.chosen[n])
        if (!now.chosen[n].count(e)) entered.push_back(e);
      // (ii) Who is left is more loaded, against the even load, than who is entered.
      for (const auto e : left)
        for (const auto f : entered)
          prefers = prefers && side(now.load[static_cast<size_t>(f)]) > side(now.load[static_cast<size_t>(e)]);
      const auto gain = value(n, next.chosen[n], next.bias) - value(n, now.chosen[n], next.bias);
      is_small_benefit =
          is_small_benefit && gain >= -1e-12 && gain <= 2 * rate * static_cast<double>(entered.size()) + 1e-12;
      benefit += gain, moved += static_cast<int64_t>(entered.size());
    }
    for (const auto l : now.load) excess += std::max(l - even, 0.0);
    // (i) The Lagrangian changes by what tokens gain from switching, less what the multipliers' move takes away.
    double total = 0;
    for (const auto l : now.load) total += std::abs(l - even);
    const auto change = lagrangian(next) - lagrangian(now);
    is_identity = is_identity && std::abs(change - (benefit - rate * total)) < 1e-9;
    // A switch gains at most 2 rate, so with fewer switches than assignments in excess it falls.
    if (static_cast<double>(moved) < excess) {
      ++out.n_falls_promised;
      falls = falls && change < 1e-12;
    }
    for (size_t e = 0; e < now.load.size(); ++e) {
      const auto delta = next.load[e] - now.load[e];
      is_one_way = is_one_way && (side(now.load[e]) >= 0 || delta <= 0) && (side(now.load[e]) <= 0 || delta >= 0);
      out.largest_change = std::max(out.largest_change, static_cast<int64_t>(std::abs(delta)));
    }
    // (iii) No load moves away from even by more than one step's change.
    stays = stays && deviation(next) <= std::max(deviation(now), static_cast<double>(out.largest_change));
    if (step >= steps - steps / 4) out.late_deviation = std::max(out.late_deviation, deviation(next));
    out.n_moved += moved;
    now = next;
  }
  out.last_lagrangian = lagrangian(now);
  CHECK_MESSAGE(is_identity, "the Lagrangian changes by the switching benefit less rate * sum |A - L|");
  CHECK_MESSAGE(is_small_benefit, "a switch gains between nothing and two rates");
  CHECK_MESSAGE(falls, "the Lagrangian falls when fewer assignments move than are in excess");
  CHECK_MESSAGE(prefers, "tokens go from more loaded experts to less loaded ones only");
  CHECK_MESSAGE(is_one_way, "overloaded experts never gain, underloaded ones never lose");
  CHECK_MESSAGE(stays, "deviations do not grow beyond one step's change");
  CHECK(out.n_moved > 0);
  CHECK(out.n_falls_promised > 0);
  CHECK(out.last_lagrangian < out.first_lagrangian);
  CHECK(out.late_deviation <= static_cast<double>(out.largest_change));
  CHECK(out.late_deviation < out.first_deviation);
  return out;
}

}  // namespace collegium::test
