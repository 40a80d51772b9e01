// A number of experts by importance: the budget, who gets more, and what may be looked at.
//
// N tokens, B sequences of T tokens, E experts.
#include <algorithm>
#include <numeric>

#include "tests/support/routing.h"

namespace {

using namespace collegium;
using namespace collegium::route;
using namespace collegium::test;

std::unique_ptr<Selector> selector(const Table& fields, int64_t E = 6) {
  const Named named{.name = "importance_top_k", .fields = fields};
  return find(selectors(), named, "selector").make(named, {.d_model = 4, .n_experts = E, .options = at::kFloat});
}

Scores some_scores(int64_t N, int64_t E) {
  Scores scores;
  scores.score_NE = scores.logit_NE = numbers(Random(4), {N, E}).softmax(1), scores.kind = ScoreKind::softmax;
  return scores;
}

// Experts that each token asks for.
std::vector<int64_t> asked(Selector& s, const Context& context, int64_t N, int64_t E = 6) {
  return ints(at::bincount(s.select(some_scores(N, E), {}, context).token_A, {}, N));
}

Table rule(double budget, int64_t min_k, int64_t max_k, const char* importance) {
  return table({{"budget", budget}, {"min_k", min_k}, {"max_k", max_k}, {"importance", importance}});
}

}  // namespace

TEST_CASE_FIXTURE(OneThread,
                  "da_moe: with the paper's importance the mean number of experts is the budget up to rounding") {
  const int64_t B = 3, T = 70, N = B * T;
  for (const double budget : {1.0, 1.3, 2.0, 3.1, 4.0}) {
    CAPTURE(budget);
    const auto s = selector(rule(budget, 1, 4, "received"));
    CHECK_FALSE(s->claims().is_causal);
    for (const bool has_mask : {false, true}) {
      auto context = context_of(N, B);
      if (has_mask) context.mask_N = at::arange(N).remainder(6).ne(2);
      const auto k = asked(*s, context, N);
      double sum = 0, real = 0;
      for (size_t n = 0; n < k.size(); ++n) {
        const bool is_real = !has_mask || n % 6 != 2;
        CHECK((is_real ? k[n] >= 1 && k[n] <= 4 : k[n] == 0));
        sum += static_cast<double>(k[n]), real += is_real;
      }
      // Each of the three steps of the staircase is rounded once.
      CHECK(std::abs(sum - budget * real) <= 1.5);
      // Importance by hand: what each token receives from real queries.
      const auto attention = reals(context.attention_BTT);
      std::vector<double> importance(k.size());
      for (size_t n = 0; n < k.size(); ++n)
        for (size_t q = 0; q < T; ++q) {
          const auto b = n / T;
          if (!has_mask || (b * T + q) % 6 != 2) importance[n] += attention[(b * T + q) * T + n % T];
        }
      for (size_t n = 0; n < k.size(); ++n)
        for (size_t m = 0; m < k.size(); ++m)
          if (k[n] > 0 && k[m] > 0 && importance[n] > importance[m] + 1e-6) CHECK(k[n] >= k[m]);
    }
  }
}

TEST_CASE_FIXTURE(
    OneThread, "da_moe: by default later queries and other sequences have no say, and more importance is never less") {
  const int64_t B = 2, T = 20, N = B * T;
  const auto s = selector(rule(2, 1, 4, "own"));
  CHECK(s->claims().is_causal);
  CHECK(s->claims().reads_other_tokens);
  auto context = context_of(N, B);
  const auto k = asked(*s, context, N);
  for (const int64_t cut : {3, 11}) {
    auto other = context;
    other.attention_BTT = context.attention_BTT.clone();
    other.attention_BTT[0].slice(0, cut).copy_(some_attention(1, T, at::kFloat)[0].flip({1}).slice(0, cut));
    other.attention_BTT[1].copy_(some_attention(3, T)[2]);
    const auto changed = asked(*s, other, N);
    CHECK(std::equal(changed.begin(), changed.begin() + cut, k.begin()));
    CHECK(changed != k);
  }
  for (int64_t t = 0; t < T; ++t) {
    auto more = context;
    more.attention_BTT = context.attention_BTT.clone();
    int64_t before = 0;
    for (const double own : {0.0, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0}) {
      more.attention_BTT[0][t][t] = own;
      const auto now = asked(*s, more, N)[static_cast<size_t>(t)];
      CHECK(now >= before);
      before = now;
    }
    CHECK((t < 4 || before >= 3));  // or one less where the tokens before took more than their share
  }
}

TEST_CASE_FIXTURE(OneThread, "da_moe: over all orders of the importances the causal mean keeps its bound") {
  const int64_t T = 6;
  for (const double budget : {1.25, 2.0, 2.5, 3.5}) {
    CAPTURE(budget);
    auto fields = rule(budget, 1, 4, "own");
    fields.set("slack", 1e9);  // ranks alone
    const auto s = selector(fields);
    // Every order of six importances, as one batch.
    std::vector<int64_t> order(T);
    std::iota(order.begin(), order.end(), 1);
    std::vector<double> own;
    int64_t B = 0;
    do {
      for (int64_t t = 0; t < T; ++t)
        own.push_back(static_cast<double>(order[static_cast<size_t>(t)]) / 7 / static_cast<double>(t + 1));
      ++B;
    } while (std::next_permutation(order.begin(), order.end()));
    auto context = context_of(B * T);
    context.n_sequences = B, context.sequence_N = at::arange(B).repeat_interleave(T);
    context.attention_BTT = at::tensor(own, at::kDouble).reshape({B, T}).diag_embed();
    const auto k = asked(*s, context, B * T);
    for (int64_t t = 0; t < T; ++t) {
      double mean = 0;
      for (int64_t b = 0; b < B; ++b)
        mean += static_cast<double>(k[static_cast<size_t>(b * T + t)]) / static_cast<double>(B);
      CHECK(std::abs(mean - budget) <= 3.0 / (2 * static_cast<double>(t + 1)) + 1e-9);
    }
  }
  // A long sequence: the mean over the sequence.
  const int64_t long_T = 1000;
  auto context = context_of(long_T);
  context.attention_BTT =
      (numbers(Random(5), {long_T}, 0, 1, at::kDouble) / at::arange(1, long_T + 1)).diag().unsqueeze(0);
  for (const double budget : {1.5, 2.0, 3.0}) {
    const auto k = asked(*selector(rule(budget, 1, 4, "own")), context, long_T);
    CHECK(std::accumulate(k.begin(), k.end(), 0.0) / long_T == doctest::Approx(budget).epsilon(0.05));
  }
}

TEST_CASE_FIXTURE(OneThread, "da_moe: attention that drifts along the sequence keeps its budget up to the slack") {
  const int64_t B = 2, T = 300, N = B * T, min_k = 1, max_k = 5;
  auto context = context_of(N, B);
  // One sequence looks ever more at itself, the other ever less; some tokens are masked.
  const auto drift_T = at::linspace(0.001, 0.999, T, at::kDouble);
  context.attention_BTT = at::stack({drift_T.diag(), (1 - drift_T).pow(4).diag()});
  context.mask_N = at::arange(N).remainder(7).ne(3);
  for (const double budget : {1.0, 2.0, 2.6, 5.0})
    for (const double slack : {1.0, 8.0, 40.0}) {
      CAPTURE(budget);
      CAPTURE(slack);
      auto fields = rule(budget, min_k, max_k, "own");
      fields.set("slack", slack);
      const auto k = asked(*selector(fields), context, N);
      for (int64_t b = 0; b < B; ++b) {
        double debt = 0;
        for (auto n = static_cast<size_t>(b * T); n < static_cast<size_t>((b + 1) * T); ++n) {
          debt += n % 7 == 3 ? 0 : static_cast<double>(k[n]) - budget;
          CHECK(std::abs(debt) <= slack + static_cast<double>(max_k - min_k));
        }
      }
    }
  // Without it the rising one takes the most experts nearly always.
  auto fields = rule(2, min_k, max_k, "own");
  fields.set("slack", 1e9);
  const auto k = asked(*selector(fields), context, N);
  CHECK(std::accumulate(k.begin(), k.begin() + T, 0.0) / T > 3.5);
}

TEST_CASE_FIXTURE(OneThread, "da_moe: a token's experts are its best ones, with margins to the next") {
  const int64_t N = 30, E = 6;
  const auto s = selector(rule(2.5, 1, E, "own"));
  const auto context = context_of(N);
  const auto scores = some_scores(N, E);
  const auto a = s->select(scores, {}, context);
  const auto token = ints(a.token_A), expert = ints(a.expert_A), rank = ints(a.rank_A), k = asked(*s, context, N);
  const auto margin = reals(a.margin_A), score = reals(scores.score_NE);
  for (size_t i = 0; i < token.size(); ++i) {
    const auto* row = score.data() + token[i] * E;
    std::vector<double> sorted(row, row + E);
    std::sort(sorted.rbegin(), sorted.rend());
    CHECK(row[expert[i]] == sorted[static_cast<size_t>(rank[i])]);
    const auto taken = static_cast<size_t>(k[static_cast<size_t>(token[i])]);
    if (taken < E) CHECK(margin[i] == doctest::Approx(row[expert[i]] - sorted[taken]).epsilon(1e-4));
    if (taken == E) CHECK(std::isinf(margin[i]));
  }
  CHECK(complaint([] { selector(rule(5, 1, 4, "own")); }).find("must lie between") != std::string::npos);
  CHECK(complaint([] { selector(rule(2, 1, 9, "own")); }).find("more than the 6 experts") != std::string::npos);
}
