// BASE: the assignment's value against exact solvers (a search through all balanced assignments, a Hungarian method),
// equal loads, and what changes between training and evaluation.
//
// N tokens, D model width, E experts.
#include <cmath>
#include <functional>

#include "tests/support/gradcheck.h"
#include "tests/support/routing.h"

namespace {

using namespace collegium;
using namespace collegium::route;
using namespace collegium::test;

std::unique_ptr<Selector> made(double epsilon, int64_t E) {
  const Named named{.name = "balanced_assignment", .fields = table({{"epsilon", epsilon}})};
  return find(selectors(), named, "selector").make(named, {.d_model = 4, .n_experts = E, .options = at::kDouble});
}

std::vector<int64_t> assigned(Selector& selector, const Tensor& logit_NE, Phase phase = Phase::train) {
  const auto N = logit_NE.size(0);
  const Scores scores{.logit_NE = logit_NE,
                      .score_NE = logit_NE.sigmoid(),
                      .kind = ScoreKind::sigmoid,
                      .n_tokens = N,
                      .n_experts = logit_NE.size(1)};
  const auto a = selector.select(scores, {}, context_of(N, 1, phase));
  CHECK(ints(a.token_A) == ints(at::arange(N)));
  return ints(a.expert_A);
}

double value_of(const Tensor& logit_NE, const std::vector<int64_t>& expert) {
  const auto v = reals(logit_NE);
  double sum = 0;
  for (size_t n = 0; n < expert.size(); ++n)
    sum += v[n * static_cast<size_t>(logit_NE.size(1)) + static_cast<size_t>(expert[n])];
  return sum;
}

std::vector<int64_t> loads(const std::vector<int64_t>& expert, int64_t E) {
  std::vector<int64_t> out(static_cast<size_t>(E));
  for (const auto e : expert) ++out[static_cast<size_t>(e)];
  return out;
}

bool is_even(const std::vector<int64_t>& load) {
  return *std::max_element(load.begin(), load.end()) - *std::min_element(load.begin(), load.end()) <= 1;
}

// Every assignment whose loads differ by at most one, the best value.
double searched(const Tensor& logit_NE) {
  const auto N = logit_NE.size(0), E = logit_NE.size(1);
  double best = -1e300;
  std::vector<int64_t> expert(static_cast<size_t>(N));
  const std::function<void(size_t)> place = [&](size_t n) {
    if (n < expert.size()) {
      for (expert[n] = 0; expert[n] < E; ++expert[n]) place(n + 1);
    } else if (is_even(loads(expert, E))) {
      best = std::max(best, value_of(logit_NE, expert));
    }
  };
  place(0);
  return best;
}

// Largest value of a perfect matching of a square matrix (shortest augmenting paths with potentials).
double hungarian(const std::vector<std::vector<double>>& value) {
  const auto n = value.size();
  std::vector<double> u(n + 1), v(n + 1);
  std::vector<size_t> row_of(n + 1), way(n + 1);
  for (size_t i = 1; i <= n; ++i) {
    row_of[0] = i;
    size_t j0 = 0;
    std::vector<double> least(n + 1, 1e300);
    std::vector<char> used(n + 1);
    do {
      used[j0] = 1;
      const auto i0 = row_of[j0];
      size_t j1 = 0;
      double delta = 1e300;
      for (size_t j = 1; j <= n; ++j) {
        if (used[j]) continue;
        const auto cost = -value[i0 - 1][j - 1] - u[i0] - v[j];
        if (cost < least[j]) least[j] = cost, way[j] = j0;
        if (least[j] < delta) delta = least[j], j1 = j;
      }
      for (size_t j = 0; j <= n; ++j)
        if (used[j])
          u[row_of[j]] += delta, v[j] -= delta;
        else
          least[j] -= delta;
      j0 = j1;
    } while (row_of[j0] != 0);
    do {
      const auto j1 = way[j0];
      row_of[j0] = row_of[j1];
      j0 = j1;
    } while (j0);
  }
  double sum = 0;
  for (size_t j = 1; j <= n; ++j) sum += value[row_of[j] - 1][j - 1];
  return sum;
}

// N divisible by E: each expert is N / E equal columns.
double exact_value(const Tensor& logit_NE) {
  const auto N = logit_NE.size(0), E = logit_NE.size(1);
  const auto v = reals(logit_NE);
  std::vector<std::vector<double>> square(static_cast<size_t>(N), std::vector<double>(static_cast<size_t>(N)));
  for (int64_t n = 0; n < N; ++n)
    for (int64_t j = 0; j < N; ++j)
      square[static_cast<size_t>(n)][static_cast<size_t>(j)] = v[static_cast<size_t>(n * E + j / (N / E))];
  return hungarian(square);
}

}  // namespace

TEST_CASE_FIXTURE(OneThread, "balanced_assignment is within epsilon * N of the best of all balanced assignments") {
  for (const int64_t E : {1, 2, 3})
    for (const int64_t N : {1, 2, 3, 5, 6, 8})
      for (const uint64_t seed : {1, 2, 3}) {
        CAPTURE(E);
        CAPTURE(N);
        CAPTURE(seed);
        const auto logit_NE = numbers(Random(seed).at(static_cast<uint64_t>(N)), {N, E}, -3, 1, at::kDouble);
        const auto expert = assigned(*made(1e-4, E), logit_NE);
        CHECK(is_even(loads(expert, E)));
        const auto value = value_of(logit_NE, expert), best = searched(logit_NE);
        CHECK(value <= best + 1e-9);
        CHECK(value >= best - 1e-4 * static_cast<double>(N) - 1e-9);
      }
}

TEST_CASE_FIXTURE(OneThread, "balanced_assignment against the Hungarian method, all tokens leaning to one expert") {
  for (const auto& [N, E] : std::vector<std::pair<int64_t, int64_t>>{{48, 4}, {60, 12}, {64, 64}, {96, 8}})
    for (const double lean : {0.0, 5.0})
      for (const double epsilon : {1e-2, 1e-5}) {
        CAPTURE(N);
        CAPTURE(E);
        CAPTURE(lean);
        CAPTURE(epsilon);
        auto logit_NE = numbers(Random(7), {N, E}, -2, 2, at::kDouble);
        logit_NE.select(1, 1).add_(lean);
        const auto expert = assigned(*made(epsilon, E), logit_NE);
        for (const auto load : loads(expert, E)) CHECK(load == N / E);
        const auto value = value_of(logit_NE, expert), best = exact_value(logit_NE);
        CHECK(value <= best + 1e-9);
        CHECK(value >= best - epsilon * static_cast<double>(N) - 1e-9);
      }
}

// Whole numbers: assignments that are not the best are worse by one at least, so within epsilon * N < 1 there is only
// the best. Few different numbers, so that many assignments tie.
TEST_CASE_FIXTURE(OneThread, "with whole numbers and epsilon below 1 / N the assignment is the best one, exactly") {
  for (const auto& [N, E] : std::vector<std::pair<int64_t, int64_t>>{{12, 3}, {48, 4}, {60, 12}, {64, 64}, {96, 8}})
    for (const double width : {2.0, 9.0})
      for (const uint64_t seed : {1, 2, 3}) {
        CAPTURE(N);
        CAPTURE(E);
        CAPTURE(width);
        CAPTURE(seed);
        auto logit_NE = numbers(Random(seed).at("whole"), {N, E}, -width, width, at::kDouble).round();
        logit_NE.select(1, 0).add_(width);
        const auto expert = assigned(*made(0.9 / static_cast<double>(N), E), logit_NE);
        for (const auto load : loads(expert, E)) CHECK(load == N / E);
        CHECK(value_of(logit_NE, expert) == exact_value(logit_NE));
      }
  for (const int64_t N : {5, 7, 8}) {  // E does not divide N
    CAPTURE(N);
    const auto logit_NE = numbers(Random(4).at(static_cast<uint64_t>(N)), {N, 3}, -4, 4, at::kDouble).round();
    const auto expert = assigned(*made(0.9 / static_cast<double>(N), 3), logit_NE);
    CHECK(is_even(loads(expert, 3)));
    CHECK(value_of(logit_NE, expert) == searched(logit_NE));
  }
}

TEST_CASE_FIXTURE(OneThread, "equal scores, scores that never differ between experts, and more experts than tokens") {
  for (const int64_t N : {1, 3, 7, 8, 400}) {
    CAPTURE(N);
    CHECK(is_even(loads(assigned(*made(1e-3, 8), at::zeros({N, 8}, at::kDouble)), 8)));
    const auto same_NE = numbers(Random(1), {N, 1}, -5, 5, at::kDouble).expand({N, 8});
    CHECK(is_even(loads(assigned(*made(1e-3, 8), same_NE), 8)));
  }
}

TEST_CASE_FIXTURE(OneThread, "training balances, evaluation takes the best expert, and a mask leaves tokens out") {
  const int64_t N = 40, D = 4, E = 4;
  const auto router = make_router({.name = "base"}, D, E, 3, at::kDouble);
  scale_parameters(*router, 5);
  auto x_ND = numbers(Random(2), {N, D}, -1, 1, at::kDouble);
  x_ND.select(1, 0).add_(2);
  const auto trained = router->route(x_ND, context_of(N, 1, Phase::train));
  for (const auto load : ints(trained.decision.kept_E())) CHECK(load == N / E);
  const auto evaluated = router->route(x_ND, context_of(N));
  CHECK(ints(at::zeros({N}, at::kLong).index_put({evaluated.decision.token_R()}, evaluated.decision.expert_R())) ==
        ints(evaluated.scores.logit_NE.argmax(1)));
  CHECK(evaluated.decision.kept_E().max().item<int64_t>() > N / E);
  auto context = context_of(N, 1, Phase::train);
  context.mask_N = at::arange(N).remainder(4).ne(1);
  const auto masked = router->route(x_ND, context).decision;
  check_decision(masked, N, E, context.mask_N);
  CHECK(is_even(ints(masked.kept_E())));
  CHECK(masked.n_kept() == 30);
  // The weight is the sigmoid of the dot product, in training as in evaluation.
  const auto& d = trained.decision;
  const auto dot_NE = x_ND.matmul(parameters_of(*router).front().tensor->t());
  CHECK(difference(d.gate_R(), dot_NE.sigmoid().index({d.token_R(), d.expert_R()})) < 1e-12);
  const auto facts = router->facts();
  CHECK(facts.is_causal);
  CHECK_FALSE(facts.is_causal_in_training);
}

TEST_CASE_FIXTURE(OneThread, "gradients of BASE in training") {
  const int64_t N = 6, D = 3, E = 3;
  const auto router = make_router({.name = "base"}, D, E, 2, at::kDouble);
  scale_parameters(*router, 8);
  auto x_ND = numbers(Random(5), {N, D}, -1, 1, at::kDouble).requires_grad_(true);
  const auto report = check_gradients(
      [&] {
        const auto r = router->route(x_ND, context_of(N, 1, Phase::train));
        return Evaluated{r.decision.gate_R(), choice_of(r.decision)};
      },
      {{"x", x_ND}, {"weight", *parameters_of(*router).front().tensor}});
  CHECK(report.is_smooth);
  CHECK_MESSAGE(report.worst < 1e-7, report.where);
  CHECK(report.largest > 1e-2);
}

TEST_CASE_FIXTURE(OneThread, "values that are no numbers, or huge, neither stop nor unbalance the assignment") {
  const int64_t N = 12, E = 4;
  const auto router = make_router({.name = "base"}, 4, E, 3, at::kDouble);
  for (const double odd : {std::nan(""), HUGE_VAL, -HUGE_VAL, 1e300, 1e30}) {
    auto x_ND = numbers(Random(1), {N, 4}, -1, 1, at::kDouble);
    x_ND[3][1] = odd;
    auto context = context_of(N);
    context.phase = Phase::train;
    for (const auto load : ints(router->route(x_ND, context).decision.kept_E())) CHECK(load == N / E);
  }
}
