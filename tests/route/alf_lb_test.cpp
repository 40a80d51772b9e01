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
