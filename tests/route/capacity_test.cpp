// Room per expert: how much there is, who gets it, and what becomes of the rest.
//
// N tokens, E experts, R kept assignments.
#include "collegium/route/room_limit.h"

#include "tests/support/routing.h"

namespace {

using namespace collegium;
using namespace collegium::route;
using namespace collegium::test;

// Scores written by hand through a capacity stage, without a scorer.
struct Wanted {
  std::vector<int64_t> token, expert, rank;
  std::vector<double> score;
};

Decision decision_of(const Wanted& w, int64_t n_tokens, int64_t n_experts) {
  const auto score_A = at::tensor(w.score, at::kDouble);
  return Decision::make({at::tensor(w.token), at::tensor(w.expert), at::tensor(w.rank), score_A, score_A}, n_tokens,
                        n_experts);
}

Decision apply(const Named& capacity, const Decision& asked, const Scores& scores, const Context& context) {
  const auto stage = find(capacities(), capacity, "capacity")
                         .make(capacity, {.d_model = 2, .n_experts = asked.n_experts(), .options = at::kFloat});
  const auto d = stage->apply(asked, scores, context);
  return d.with_gates(at::ones({d.n_kept()}, at::kDouble));
}

Pairs kept(const Decision& d) {
  return pairs(d.token_R(), d.expert_R());
}
Pairs dropped(const Decision& d) {
  return pairs(d.dropped().token_Q, d.dropped().expert_Q);
}

Scores scores_of(const Tensor& score_NE) {
  Scores s;
  s.score_NE = s.logit_NE = score_NE, s.kind = ScoreKind::softmax;
  s.n_tokens = score_NE.size(0), s.n_experts = score_NE.size(1);
  return s;
}

}  // namespace

TEST_CASE("slots per expert") {
  CHECK(slots_per_expert(1.0, 0, 1, 8, 4) == 2);
  CHECK(slots_per_expert(1.25, 0, 1, 8, 4) == 3);     // 2.5 rounded up
  CHECK(slots_per_expert(1.1, 0, 1, 100, 10) == 11);  // 11.000000000000002 is 11
  CHECK(slots_per_expert(1.0, 0, 1, 9, 4) == 3);
  CHECK(slots_per_expert(0.0, 0, 1, 8, 4) == 1);
  CHECK(slots_per_expert(0.0, 0, 0, 8, 4) == 0);
  CHECK(slots_per_expert(0.01, 0, 5, 8, 4) == 5);
  CHECK(slots_per_expert(7.0, 3, 1, 8, 4) == 3);
  CHECK(slots_per_expert(1.0, 0, 0, 0, 4) == 0);
}

TEST_CASE("priorities: earlier tokens, first choices, higher scores") {
  // Expert 0 is wanted by all; rank and score disagree with the position.
  const Wanted w{.token = {0, 1, 2, 3}, .expert = {0, 0, 0, 0}, .rank = {1, 0, 1, 0}, .score = {0.2, 0.3, 0.9, 0.3}};
  const auto asked = decision_of(w, 4, 2);
  const auto limited = [&](const char* priority) {
    return apply({.name = "factor", .fields = table({{"tokens", 2}, {"priority", priority}})}, asked, {},
                 context_of(4));
  };
  CHECK(kept(limited("position")) == Pairs{{0, 0}, {1, 0}});
  CHECK(kept(limited("rank")) == Pairs{{1, 0}, {3, 0}});
  CHECK(kept(limited("score")) == Pairs{{1, 0}, {2, 0}});  // the tie of 1 and 3 goes to the earlier one
  for (const auto* priority : {"position", "rank", "score"}) check_decision(limited(priority), 4, 2);
  CHECK(dropped(limited("rank")) == Pairs{{0, 0}, {2, 0}});
}

TEST_CASE("another factor outside training") {
  const Wanted w{.token = {0, 1, 2, 3}, .expert = {0, 0, 0, 0}, .rank = {0, 0, 0, 0}, .score = {0.2, 0.3, 0.9, 0.3}};
  const auto asked = decision_of(w, 4, 2);
  const auto n_kept = [&](double evaluation_factor, Phase phase) {
    auto context = context_of(4);
    context.phase = phase;
    return apply({.name = "factor", .fields = table({{"factor", 0.5}, {"evaluation_factor", evaluation_factor}})},
                 asked, {}, context)
        .n_kept();
  };
  CHECK(n_kept(1.5, Phase::train) == 1);
  CHECK(n_kept(1.5, Phase::recompute) == 1);  // recomputed activations are those of training
  CHECK(n_kept(1.5, Phase::evaluate) == 3);
  CHECK(n_kept(0, Phase::evaluate) == 1);
}

TEST_CASE("GShard: every first choice comes before any second one") {
  const auto router = make_router(Named{.name = "gshard", .fields = table({{"capacity_factor", 0.8}})}, 6, 4, 2);
  scale_parameters(*router, 6);
  int64_t second_choices_out = 0;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const auto d = router->route(numbers(Random(seed), {20, 6}), context_of(20)).decision;
    const auto kept_expert = ints(d.expert_R()), kept_rank = ints(d.rank_R());
    const auto gone_expert = ints(d.dropped().expert_Q), gone_rank = ints(d.dropped().rank_Q);
    for (size_t q = 0; q < gone_rank.size(); ++q) {
      second_choices_out += gone_rank[q] == 1;
      for (size_t r = 0; r < kept_rank.size(); ++r)
        if (kept_expert[r] == gone_expert[q]) CHECK(kept_rank[r] <= gone_rank[q]);
    }
    // GShard's capacity counts tokens: 0.8 * 20 / 4.
    CHECK(d.kept_E().max().item<int64_t>() <= 4);
  }
  CHECK(second_choices_out > 0);
}

TEST_CASE("each sequence has its own room") {
  // Sequence 0: tokens 0 to 3, sequence 1: tokens 4 to 7. All want expert 0, once.
  Wanted w;
  for (int64_t n = 0; n < 8; ++n)
    w.token.push_back(n), w.expert.push_back(0), w.rank.push_back(0), w.score.push_back(1);
  const auto asked = decision_of(w, 8, 2);
  const auto with = [&](const char* scope) {
    return apply({.name = "factor", .fields = table({{"factor", 1.0}, {"scope", scope}})}, asked, {}, context_of(8, 2));
  };
  CHECK(kept(with("batch")) == Pairs{{0, 0}, {1, 0}, {2, 0}, {3, 0}});
  CHECK(kept(with("sequence")) == Pairs{{0, 0}, {1, 0}, {4, 0}, {5, 0}});
  check_decision(with("sequence"), 8, 2);
}

TEST_CASE("a sequence's room does not depend on its neighbours' length or on padding") {
  const Named capacity{.name = "factor", .fields = table({{"factor", 1.0}, {"scope", "sequence"}})};
  const auto of_first = [&](int64_t n_second, int64_t n_empty) {
    Wanted w;
    for (int64_t n = 0; n < 6 + n_second; ++n)
      w.token.push_back(n), w.expert.push_back(0), w.rank.push_back(0), w.score.push_back(1);
    Context context;
    context.sequence_N = at::cat({at::zeros({6}, at::kLong), at::ones({n_second}, at::kLong)});
    context.n_sequences = 2 + n_empty;
    auto all = kept(apply(capacity, decision_of(w, 6 + n_second, 2), {}, context));
    for (auto i = all.begin(); i != all.end();) i = i->first >= 6 ? all.erase(i) : std::next(i);
    return all;
  };
  CHECK(of_first(0, 0) == Pairs{{0, 0}, {1, 0}, {2, 0}});
  CHECK(of_first(0, 0) == of_first(2, 0));
  CHECK(of_first(0, 0) == of_first(10, 0));
  CHECK(of_first(0, 0) == of_first(2, 3));
}

TEST_CASE("rerouting: to the best expert with room, dropped only when none has any") {
  // Four tokens want expert 0, which takes two. Token 2 likes expert 2 next, token 3 expert 1.
  const auto score_NE =
      at::tensor(std::vector<double>{.9, .05, .05, .9, .05, .05, .5, .1, .4, .5, .4, .1}).reshape({4, 3});
  const Wanted w{.token = {0, 1, 2, 3}, .expert = {0, 0, 0, 0}, .rank = {0, 0, 0, 0}, .score = {.9, .9, .5, .5}};
  const Named capacity{.name = "reroute", .fields = table({{"factor", 1.0}})};
  const auto d = apply(capacity, decision_of(w, 4, 3), scores_of(score_NE), context_of(4));
  check_decision(d, 4, 3);
  CHECK(kept(d) == Pairs{{0, 0}, {1, 0}, {2, 2}, {3, 1}});
  CHECK(d.n_dropped() == 0);
  CHECK(ints(d.wanted_R()) == std::vector<int64_t>{0, 0, 0, 0});
  CHECK(ints(d.asked_E()) == std::vector<int64_t>{4, 0, 0});  // the demand stays visible to the balancers
  const auto expert = ints(d.expert_R());
  const auto score = reals(d.score_R());
  for (size_t r = 0; r < expert.size(); ++r)
    if (expert[r] > 0) CHECK(score[r] == doctest::Approx(0.4));

  // One slot each and four tokens: the last one finds nothing.
  const Named narrow{.name = "reroute", .fields = table({{"factor", 0.75}})};
  const auto full = apply(narrow, decision_of(w, 4, 3), scores_of(score_NE), context_of(4));
  CHECK(kept(full) == Pairs{{0, 0}, {1, 1}, {2, 2}});
  CHECK(dropped(full) == Pairs{{3, 0}});
}

TEST_CASE("rerouting over many draws: room is kept to, drops only where the token can go nowhere") {
  int64_t drops = 0, moves = 0;
  for (uint64_t seed = 0; seed < 40; ++seed) {
    const int64_t N = 15, E = 4, K = 1 + static_cast<int64_t>(seed % 3);
    const auto factor = 0.5 + 0.15 * static_cast<double>(seed % 5);
    const auto make = [&](const Named& capacity) {
      auto router = make_router(
          stages({{"selector", table({{"name", "top_k"}, {"k", K}})}, {"capacity", to_table(capacity)}}), 5, E, seed);
      scale_parameters(*router, 8);
      return router->route(numbers(Random(seed), {N, 5}), context_of(N)).decision;
    };
    const auto d = make({.name = "reroute", .fields = table({{"factor", factor}})});
    const auto free = make({.name = "unlimited"});
    check_decision(d, N, E);
    const auto slots = slots_per_expert(factor, 0, 1, N * K, E);
    const auto load = ints(d.kept_E());
    for (const auto l : load) CHECK(l <= slots);
    const auto here = kept(d);
    for (const auto& [token, expert] : dropped(d)) {
      ++drops;
      for (int64_t e = 0; e < E; ++e) CHECK((load[static_cast<size_t>(e)] == slots || here.count({token, e})));
    }
    for (const auto& pair : here) moves += !kept(free).count(pair);
  }
  CHECK(drops > 0);
  CHECK(moves > 0);
}

TEST_CASE("a list of choices may come in any order") {
  const Wanted straight{
      .token = {0, 0, 1, 1, 2}, .expert = {1, 0, 1, 2, 0}, .rank = {0, 1, 0, 1, 0}, .score = {.5, .4, .3, .2, .1}};
  const Wanted mixed{
      .token = {2, 1, 0, 1, 0}, .expert = {0, 2, 0, 1, 1}, .rank = {0, 1, 1, 0, 0}, .score = {.1, .2, .4, .3, .5}};
  const auto a = decision_of(straight, 3, 3).with_gates(at::ones({5})),
             b = decision_of(mixed, 3, 3).with_gates(at::ones({5}));
  check_decision(b, 3, 3);
  CHECK(same_decision(a, b));
  CHECK(ints(b.token_R()) == std::vector<int64_t>{0, 2, 0, 1, 1});
}
