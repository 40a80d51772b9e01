// What P108 proves of the bias update of loss-free balancing, checked by numbers. In the abstract's count:
//   (i)   On fixed scores the Lagrangian changes by the tokens' switching benefits less rate * sum |A - L|, so it falls
//         unless many tokens sit within two rates of a switch.
//   (ii)  Preference rule: a token switches only to an expert that is less loaded, against the even load, than the one
//         which it leaves.
//   (iii) Approximate balance: loads come as near to even as one step can change them, and stay there; with a small
//   rate
//         that is E - 1 tokens, one exchanged with each other expert.
//   (iv)  Online: with tokens drawn anew each time, a step of u / n and the load itself instead of its sign, the
//   expected
//         regret against the best fixed bias grows like log n.
// The same on scores of a trained language model: tests/model/alf_lb_test.cpp. Assumed: numbers and rates are ours; the
// paper's statement of (iii) for its own step rule was not at hand.
//
// N tokens, E experts, K choices.
#include <algorithm>
#include <map>

#include "collegium/route/primal_dual.h"
#include "tests/support/alf_lb.h"

namespace {

using namespace collegium;
using namespace collegium::test;

// Scores in [0, 1] that lean to the first experts.
Tensor leaning_scores(uint64_t seed, int64_t N, int64_t E) {
  return (numbers(Random(seed), {N, E}, 0, 0.7, at::kDouble) +
          at::arange(E, at::kDouble).flip({0}) * (0.3 / static_cast<double>(E)));
}

}  // namespace

TEST_CASE_FIXTURE(OneThread,
                  "alf_lb: on synthetic scores (i) the Lagrangian falls, (ii) tokens prefer, (iii) loads even out") {
  for (const auto& [N, E, k] : std::vector<std::tuple<int64_t, int64_t, int64_t>>{{48, 4, 1}, {60, 6, 2}, {50, 7, 3}}) {
    CAPTURE(N);
    CAPTURE(E);
    CAPTURE(k);
    const auto out = check_balancing(leaning_scores(static_cast<uint64_t>(N), N, E), k, 2e-3, 600);
    CHECK(out.first_deviation > static_cast<double>(E));
  }
}

TEST_CASE_FIXTURE(OneThread,
                  "alf_lb: (iii) with a small rate no load is further from even than the other experts are many") {
  const int64_t N = 48, E = 4;
  const auto out = check_balancing(leaning_scores(3, N, E), 1, 2e-4, 2500);
  CHECK(out.largest_change <= E - 1);
  CHECK(out.late_deviation <= static_cast<double>(E - 1));
}

namespace {

// One pass of training after another on the same scores: what the balancer says of each, and the bias that it ends
// with.
struct Followed {
  std::vector<std::map<std::string, double>> said;
  Tensor bias_E;
};
Followed follow(const Named& named, const Tensor& score_NE, int64_t k, int64_t passes) {
  using namespace route;
  const auto N = score_NE.size(0), E = score_NE.size(1);
  const StageInputs inputs{.d_model = 1, .n_experts = E, .options = at::kDouble};
  const Named top_k{.name = "top_k", .fields = table({{"k", k}})};
  const auto selector = find(selectors(), top_k, "selector").make(top_k, inputs);
  const auto balancer = find(balancers(), named, "balancer").make(named, inputs);
  Scores scores;
  scores.score_NE = scores.logit_NE = score_NE, scores.kind = ScoreKind::sigmoid;
  Context context;
  context.phase = Phase::train;
  Followed out;
  for (int64_t pass = 0; pass < passes; ++pass) {
    context.random = Random(static_cast<uint64_t>(pass));
    const auto decision = Decision::make(selector->select(scores, balancer->bias_E(), context), N, E);
    auto& said = out.said.emplace_back();
    for (const auto& term : balancer->loss(scores, decision, context)) {
      CHECK(term.value.item<double>() == 0);
      said[term.name] = term.raw;
    }
    balancer->observe(decision, context);
    balancer->step();
  }
  out.bias_E = balancer->bias_E();
  return out;
}

Named primal_dual(std::initializer_list<std::pair<std::string, Value>> fields) {
  return {.name = "primal_dual_bias", .fields = table(fields)};
}

}  // namespace

TEST_CASE_FIXTURE(OneThread, "primal_dual_bias: by sign and at a constant rate it is the bias of loss-free balancing") {
  const auto score_NE = leaning_scores(5, 48, 4);
  const auto ours = follow(primal_dual({{"rate", 0.003}}), score_NE, 2, 40);
  const auto other = follow({.name = "loss_free_bias", .fields = table({{"rate", 0.003}})}, score_NE, 2, 40);
  CHECK(same_bits(ours.bias_E, other.bias_E));
  CHECK(ours.bias_E.abs().max().item<double>() > 0.01);
  CHECK(ours.said.back().empty());  // it checks nothing unless told to
}

TEST_CASE_FIXTURE(OneThread, "primal_dual_bias: by load it moves by the rate for each even load, divided by the step") {
  // All four tokens like expert 0 best, two of them expert 1 next to it: loads 4, 2, 2 of an even 8/3.
  const auto score_NE = at::tensor({.9, .5, .1, .9, .5, .1, .9, .1, .5, .9, .1, .5}, at::kDouble).view({4, 3});
  const auto one = follow(primal_dual({{"rate", 0.01}, {"move", "load"}, {"decay", "harmonic"}}), score_NE, 2, 1);
  CHECK(difference(one.bias_E, at::tensor({-.005, .0025, .0025}, at::kDouble)) < 1e-12);
  const auto two = follow(primal_dual({{"rate", 0.01}, {"move", "load"}, {"decay", "harmonic"}}), score_NE, 2, 2);
  CHECK(difference(two.bias_E, one.bias_E * 1.5) < 1e-12);
}

TEST_CASE_FIXTURE(OneThread, "primal_dual_bias: what it says of (i) to (iii) holds and can fail") {
  const auto score_NE = leaning_scores(7, 60, 6);
  for (const auto* move : {"sign", "load"}) {
    CAPTURE(move);
    const auto out = follow(primal_dual({{"rate", 2e-3}, {"move", move}, {"check_every", 1}, {"settle_every", 40}}),
                            score_NE, 2, 80);
    double fell = 0;
    for (const auto& said : out.said) {
      fell += said.at("lagrangian_fell") / 80;
      CHECK(said.at("checked") == 1);
      CHECK(said.at("lagrangian_error") < 1e-12);
      CHECK(said.at("fall_broken") == 0);
      CHECK(said.at("preference_broken") == 0);
      CHECK(said.at("deviation_broken") == 0);
    }
    CHECK(fell > 0.9);
    CHECK(out.said[0].count("settled_broken") == 0);
    CHECK(out.said[39].at("settled_broken") == 0);
    CHECK(out.said[79].at("settled_deviation") < 0.5);
  }
  // A step that is far too long throws all tokens from one side to the other: the Lagrangian rises again and again.
  const auto wild = follow(primal_dual({{"rate", 2.0}, {"check_every", 1}, {"settle_every", 4}}), score_NE, 2, 20);
  double fell = 0;
  for (const auto& said : wild.said) fell += said.at("lagrangian_fell") / 20;
  CHECK(fell < 0.9);
  CHECK(wild.said[19].at("settled_deviation") > 0.5);
}

TEST_CASE_FIXTURE(OneThread, "primal_dual_bias: (iv) its regret grows like a logarithm with a falling rate only") {
  const auto score_NE = leaning_scores(9, 400, 4);
  const auto growth = [&](const Named& named) { return follow(named, score_NE, 2, 1).said[0].at("regret_growth"); };
  const auto falling =
      growth(primal_dual({{"rate", 0.5}, {"move", "load"}, {"decay", "harmonic"}, {"regret_every", 1}}));
  const auto constant = growth(primal_dual({{"rate", 0.02}, {"regret_every", 1}}));
  MESSAGE("growth of the regret: " << falling << " with a falling rate, " << constant << " with a constant one");
  CHECK(falling < 2);
  CHECK(constant > 3);
}

TEST_CASE_FIXTURE(OneThread, "primal_dual_bias: a step of the wrong sign breaks every check of a step") {
  using namespace route;
  const int64_t N = 60, E = 6, k = 2;
  const auto score_NE = leaning_scores(7, N, E), bias_E = at::zeros({E}, at::kDouble);
  const auto excess_E = BiasedChoice(score_NE, bias_E, k).excess_E();
  for (const auto& right_E : {-0.02 * excess_E.sign(), excess_E * (-0.02 * E / (N * k))}) {
    const auto right = check_step(score_NE, bias_E, right_E, k), wrong = check_step(score_NE, bias_E, -right_E, k);
    CHECK(right.fell);
    CHECK_FALSE(right.fall_broken);
    CHECK(right.preference_broken == 0);
    CHECK_FALSE(right.deviation_broken);
    CHECK_FALSE(wrong.fell);
    CHECK(wrong.fall_broken);
    CHECK(wrong.preference_broken == 1);
    CHECK(wrong.deviation_broken);
    for (const auto& checks : {right, wrong}) CHECK(checks.error < 1e-12);  // an identity, whatever the step
  }
}

TEST_CASE_FIXTURE(OneThread, "primal_dual_bias: the Lagrangian rises under a step of the right sign that is too long") {
  using namespace route;
  const auto score_NE = leaning_scores(7, 60, 6), bias_E = at::zeros({6}, at::kDouble);
  const auto step_E = -BiasedChoice(score_NE, bias_E, 2).excess_E().sign();
  CHECK(check_step(score_NE, bias_E, 0.02 * step_E, 2).fell);
  const auto longer = check_step(score_NE, bias_E, 2 * step_E, 2);
  CHECK_FALSE(longer.fell);
  // Nothing else is promised of it: every token moves, and towards less load.
  CHECK_FALSE(longer.fall_broken);
  CHECK(longer.preference_broken == 0);
}

TEST_CASE_FIXTURE(OneThread,
                  "primal_dual_bias: loads that drift apart, or stay as uneven as they are, have not settled") {
  using namespace route;
  const auto score_NE = leaning_scores(7, 60, 6), bias_E = at::zeros({6}, at::kDouble);
  const auto settling = [&](double rate) {
    return check_settling(score_NE, bias_E, 2, 400,
                          [&](const Tensor& load_E, int64_t) { return rate * (load_E.mean() - load_E).sign(); });
  };
  const auto right = settling(2e-3), wrong = settling(-2e-3), still = settling(0);
  CHECK_FALSE(right.is_broken);
  CHECK(right.deviation < 0.5);
  CHECK(wrong.is_broken);
  CHECK(wrong.deviation > 1);
  CHECK(still.is_broken);
}

TEST_CASE("primal_dual_bias: passes of selectors of which nothing is proved are passed over, and that is said") {
  const auto said = [](const Value& selector) {
    const Named named{
        .name = "stages",
        .fields = table({{"scorer", table({{"name", "linear"}, {"activation", "sigmoid"}})},
                         {"selector", selector},
                         {"balancers", List{table({{"name", "primal_dual_bias"}, {"check_every", 1}})}}})};
    const auto router = find(route::routers(), named, "router")
                            .make(named, {.d_model = 8, .n_experts = 8, .random = Random(1), .options = at::kFloat});
    route::Context context;
    context.phase = route::Phase::train;
    return router->route(numbers(Random(2), {64, 8}), context).losses;
  };
  const auto checked = said(table({{"name", "top_k"}, {"k", 2}}));
  CHECK(checked.size() == 6);
  CHECK(checked.at(0).name == "checked");
  CHECK(checked[0].raw == 1);
  const auto skipped = said(table({{"name", "grouped_top_k"}, {"k", 2}, {"groups", 4}, {"top_groups", 1}}));
  CHECK(skipped.size() == 1);
  CHECK(skipped.at(0).name == "checked");
  CHECK(skipped[0].raw == 0);
}

TEST_CASE("alf_lb: (iv) the expected regret grows like the logarithm of the number of steps") {
  // Scores are an expert's offset plus uniform noise, so the best bias is known: the offset's negative.
  const std::vector<double> offset = {0.3, 0.1, 0, -0.4};
  const size_t E = offset.size(), T = 8, steps = 6400, runs = 60;
  const double u = 1.5;
  std::vector<double> regret(steps);
  for (size_t run = 0; run < runs; ++run) {
    const Random random = Random(run).at("tokens");
    std::vector<double> bias(E), best(E);
    for (size_t e = 0; e < E; ++e) best[e] = -offset[e];
    double sum = 0;
    for (size_t n = 0; n < steps; ++n) {
      // The mean over the batch of max_e (score + b) - mean load * sum b, and the loads.
      std::vector<double> load(E);
      const auto dual = [&](const std::vector<double>& b, bool counts) {
        double value = 0;
        for (size_t t = 0; t < T; ++t) {
          size_t chosen = 0;
          double highest = -1e9;
          for (size_t e = 0; e < E; ++e)
            if (const auto s = offset[e] + random.uniform((n * T + t) * E + e) + b[e]; s > highest)
              highest = s, chosen = e;
          value += highest / static_cast<double>(T);
          if (counts) load[chosen] += 1.0 / static_cast<double>(T);
        }
        for (const auto x : b) value -= x / static_cast<double>(E);
        return value;
      };
      sum += dual(bias, true) - dual(best, false);
      regret[n] += sum / static_cast<double>(runs);
      for (size_t e = 0; e < E; ++e)
        bias[e] -= u / static_cast<double>(n + 1) * (load[e] - 1.0 / static_cast<double>(E));
    }
  }
  // From 400 to 6400 steps a logarithm grows by 1.46, a square root by 4, a line by 16.
  const auto early = regret[399], late = regret[6399];
  MESSAGE("regret after 100, 400, 1600, 6400 steps: " << regret[99] << " " << early << " " << regret[1599] << " "
                                                      << late);
  CHECK(early > 0);
  CHECK(late > 0);
  CHECK(late < 2 * early);
}
