// Top-p: the smallest set whose mass reaches p, against a search through all sets; where a choice is lost; the entropy
// loss by hand and its gradient.
//
// N tokens, D model width, E experts.
#include "tests/support/gradcheck.h"
#include "tests/support/routing.h"

namespace {

using namespace collegium;
using namespace collegium::route;
using namespace collegium::test;

std::unique_ptr<Selector> made(double p, int64_t max_k, int64_t E) {
  const Named named{.name = "top_p", .fields = table({{"p", p}, {"max_k", max_k}})};
  return find(selectors(), named, "selector").make(named, {.d_model = 4, .n_experts = E, .options = at::kDouble});
}

Scores scores_of(const Tensor& score_NE) {
  return {
      .score_NE = score_NE, .kind = ScoreKind::softmax, .n_tokens = score_NE.size(0), .n_experts = score_NE.size(1)};
}

std::vector<std::set<int64_t>> chosen_by(Selector& selector, const Tensor& score_NE) {
  const auto a = selector.select(scores_of(score_NE), {}, context_of(score_NE.size(0)));
  std::vector<std::set<int64_t>> out(static_cast<size_t>(score_NE.size(0)));
  const auto token = ints(a.token_A), expert = ints(a.expert_A);
  for (size_t i = 0; i < token.size(); ++i) out[static_cast<size_t>(token[i])].insert(expert[i]);
  return out;
}

// Of all sets whose mass reaches p the smallest, and of these the heaviest.
std::set<int64_t> searched(const std::vector<double>& score, double p) {
  std::set<int64_t> best;
  double best_mass = -1;
  for (size_t set = 1; set < (size_t{1} << score.size()); ++set) {
    std::set<int64_t> members;
    double mass = 0;
    for (size_t e = 0; e < score.size(); ++e)
      if (set >> e & 1) members.insert(static_cast<int64_t>(e)), mass += score[e];
    if (mass < p) continue;
    if (best.empty() || members.size() < best.size() || (members.size() == best.size() && mass > best_mass))
      best = members, best_mass = mass;
  }
  return best;
}

}  // namespace

TEST_CASE_FIXTURE(OneThread, "top_p takes the smallest set whose mass reaches p") {
  const int64_t N = 40, E = 8;
  std::set<size_t> sizes;
  for (const double p : {0.05, 0.3, 0.4, 0.7, 0.95}) {
    CAPTURE(p);
    const auto score_NE = numbers(Random(1), {N, E}, -3, 3, at::kDouble).softmax(1);
    const auto chosen = chosen_by(*made(p, 0, E), score_NE);
    for (int64_t n = 0; n < N; ++n) {
      CHECK(chosen[static_cast<size_t>(n)] == searched(reals(score_NE[n]), p));
      sizes.insert(chosen[static_cast<size_t>(n)].size());
    }
    const auto limited = chosen_by(*made(p, 2, E), score_NE);
    for (size_t n = 0; n < limited.size(); ++n) CHECK(limited[n].size() == std::min<size_t>(2, chosen[n].size()));
  }
  CHECK(sizes.size() >= 4);
}

TEST_CASE_FIXTURE(OneThread, "top_p at its ends: p = 0 is top-1, p = 1 takes all, even scores take p of them") {
  const int64_t N = 6, E = 8;
  const auto score_NE = numbers(Random(2), {N, E}, -3, 3, at::kDouble).softmax(1);
  for (const auto& set : chosen_by(*made(0, 0, E), score_NE)) CHECK(set.size() == 1);
  for (const auto& set : chosen_by(*made(1, 0, E), at::full({N, E}, 1.0 / E, at::kDouble)))
    CHECK(set.size() == static_cast<size_t>(E));
  for (const auto& set : chosen_by(*made(0.5, 0, E), at::full({N, E}, 1.0 / E, at::kDouble)))
    CHECK(set == std::set<int64_t>{0, 1, 2, 3});
  CHECK(complaint([] { made(0.4, 9, 8); }).find("max_k = 9") != std::string::npos);
}

TEST_CASE_FIXTURE(OneThread, "the margin of top_p is where the choice is lost") {
  const int64_t N = 10, E = 6;
  const auto score_NE = numbers(Random(3), {N, E}, -2, 2, at::kDouble).softmax(1);
  int64_t finite = 0, infinite = 0;
  for (const double p : {0.2, 0.5, 0.97})
    for (const int64_t max_k : {0, 2}) {
      const auto selector = made(p, max_k, E);
      const auto asked = selector->select(scores_of(score_NE), {}, context_of(N));
      const auto token = ints(asked.token_A), expert = ints(asked.expert_A);
      const auto margin = reals(asked.margin_A);
      for (size_t i = 0; i < token.size(); ++i) {
        const auto stays = [&](double fall) {
          auto moved_NE = score_NE.clone();
          moved_NE[token[i]][expert[i]] -= fall;
          return chosen_by(*selector, moved_NE)[static_cast<size_t>(token[i])].count(expert[i]) > 0;
        };
        if (std::isinf(margin[i])) {
          ++infinite;
          CHECK(stays(0.999 * reals(score_NE[token[i]])[static_cast<size_t>(expert[i])]));
          continue;
        }
        ++finite;
        CHECK(stays(margin[i] - 1e-9));
        CHECK_FALSE(stays(margin[i] + 1e-9));
      }
    }
  CHECK(finite > 50);
  CHECK(infinite > 0);
}

TEST_CASE_FIXTURE(OneThread, "the entropy loss is the tokens' mean entropy, and has its gradient") {
  const int64_t N = 6, D = 3, E = 4;
  const auto router = make_router({.name = "top_p", .fields = table({{"balance_loss", 0.0}, {"entropy_loss", 0.5}})}, D,
                                  E, 2, at::kDouble);
  scale_parameters(*router, 6);
  auto x_ND = numbers(Random(4), {N, D}, -1, 1, at::kDouble).requires_grad_(true);
  auto context = context_of(N);
  context.mask_N = at::arange(N).ne(2);
  const auto routing = router->route(x_ND, context);
  const auto score = reals(routing.scores.score_NE);
  double wanted = 0;
  for (size_t i = 0; i < score.size(); ++i)
    if (i / E != 2) wanted -= score[i] * std::log(score[i]) / (N - 1);
  REQUIRE(routing.losses.size() == 1);
  CHECK(routing.losses[0].raw == doctest::Approx(wanted).epsilon(1e-12));
  CHECK(routing.losses[0].value.item<double>() == doctest::Approx(0.5 * wanted).epsilon(1e-12));
  const auto report = check_gradients(
      [&] {
        const auto r = router->route(x_ND, context);
        return Evaluated{at::cat({r.decision.gate_R(), r.losses[0].value.reshape({1})}), choice_of(r.decision)};
      },
      {{"x", x_ND}, {"weight", *parameters_of(*router).front().tensor}});
  CHECK(report.is_smooth);
  CHECK_MESSAGE(report.worst < 1e-7, report.where);
  CHECK(report.largest > 1e-3);
}

TEST_CASE_FIXTURE(OneThread, "the entropy loss has a finite gradient where scores vanish") {
  auto score_NE = at::tensor(std::vector<double>{1, 0, 0, 0.5, 0.5, 0}).view({2, 3}).requires_grad_(true);
  const Named named{.name = "entropy_loss"};
  const auto balancer =
      find(balancers(), named, "balancer").make(named, {.d_model = 2, .n_experts = 3, .options = at::kDouble});
  const auto terms = balancer->loss(scores_of(score_NE), {}, context_of(2));
  CHECK(terms[0].raw == doctest::Approx(std::log(2.0) / 2).epsilon(1e-12));
  terms[0].value.backward();
  CHECK(score_NE.grad().isfinite().all().item<bool>());
}
