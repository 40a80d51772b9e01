// Group limits: the choice against a search through every allowed set, exact limits, margins, and prototypes against
// routers of their own.
//
// N tokens, D model width, E experts, G groups of S experts.
#include <map>

#include "tests/support/gradcheck.h"
#include "tests/support/routing.h"

namespace {

using namespace collegium;
using namespace collegium::route;
using namespace collegium::test;

struct Limits {
  int64_t groups, top_groups, k;
  std::string group_score, within;
};

std::string words(const Limits& l) {
  return text(l.groups, " groups, ", l.top_groups, " of them, k = ", l.k, ", ", l.group_score, ", ", l.within);
}

std::vector<Limits> limits(int64_t E) {
  std::vector<Limits> out;
  for (const int64_t groups : {1, 2, 3, 4, 6, 12})
    for (int64_t top = 1; top <= groups && top <= 3; ++top)
      for (const int64_t k : {1, 2, 4})
        for (const auto* score : {"max", "sum", "top2_sum"})
          for (const auto* within : {"each", "together"}) {
            const auto size = E / groups;
            if (E % groups == 0 && k <= (std::string(within) == "each" ? size : size * top))
              out.push_back({groups, top, k, score, within});
          }
  return out;
}

std::unique_ptr<Selector> made(const Limits& l, int64_t E) {
  const Named named{.name = "grouped_top_k",
                    .fields = table({{"groups", l.groups},
                                     {"top_groups", l.top_groups},
                                     {"k", l.k},
                                     {"group_score", l.group_score},
                                     {"within", l.within}})};
  return find(selectors(), named, "selector").make(named, {.d_model = 4, .n_experts = E, .options = at::kDouble});
}

// One token, by search: of all sets of top_groups groups the one with the largest score (lower groups first), and of
// the experts that it allows the best k, or the best k of each group.
std::set<int64_t> searched(const std::vector<double>& score, const Limits& l) {
  const auto E = static_cast<int64_t>(score.size()), size = E / l.groups;
  const auto at = [&](int64_t e) { return score[static_cast<size_t>(e)]; };
  const auto best_of = [&](std::vector<int64_t> of, int64_t k) {
    std::stable_sort(of.begin(), of.end(), [&](int64_t a, int64_t b) { return at(a) > at(b); });
    of.resize(static_cast<size_t>(std::min<int64_t>(k, static_cast<int64_t>(of.size()))));
    return of;
  };
  const auto members = [&](int64_t g) {
    std::vector<int64_t> out;
    for (int64_t e = g * size; e < (g + 1) * size; ++e) out.push_back(e);
    return out;
  };
  const auto group_score = [&](int64_t g) {
    const auto counted = l.group_score == "max" ? 1 : l.group_score == "sum" ? size : 2;
    double sum = 0;
    for (const auto e : best_of(members(g), counted)) sum += at(e);
    return sum;
  };
  double best = -1e300;
  std::vector<int64_t> chosen;
  for (int64_t set = 0; set < (int64_t{1} << l.groups); ++set) {
    std::vector<int64_t> groups;
    double sum = 0;
    for (int64_t g = 0; g < l.groups; ++g)
      if (set >> g & 1) groups.push_back(g), sum += group_score(g);
    if (static_cast<int64_t>(groups.size()) == l.top_groups && sum > best + 1e-12) best = sum, chosen = groups;
  }
  std::set<int64_t> out;
  std::vector<int64_t> all;
  for (const auto g : chosen) {
    const auto inside = members(g);
    all.insert(all.end(), inside.begin(), inside.end());
    if (l.within == "each")
      for (const auto e : best_of(inside, l.k)) out.insert(e);
  }
  if (l.within == "together")
    for (const auto e : best_of(all, l.k)) out.insert(e);
  return out;
}

std::vector<std::set<int64_t>> chosen_by(const Assignments& a, int64_t N) {
  std::vector<std::set<int64_t>> out(static_cast<size_t>(N));
  const auto token = ints(a.token_A), expert = ints(a.expert_A);
  for (size_t i = 0; i < token.size(); ++i) out[static_cast<size_t>(token[i])].insert(expert[i]);
  return out;
}

Scores scores_of(const Tensor& score_NE) {
  return {
      .score_NE = score_NE, .kind = ScoreKind::softmax, .n_tokens = score_NE.size(0), .n_experts = score_NE.size(1)};
}

}  // namespace

TEST_CASE_FIXTURE(OneThread, "grouped_top_k chooses what a search through every allowed set finds") {
  const int64_t N = 12, E = 12;
  const auto score_NE = numbers(Random(1), {N, E}, 0, 1, at::kDouble);
  const auto bias_E = numbers(Random(2), {E}, -1, 1, at::kDouble);  // some sums are below zero
  int64_t compared = 0;
  for (const auto& l : limits(E)) {
    CAPTURE(words(l));
    for (const auto& bias : {Tensor(), bias_E}) {
      const auto asked = made(l, E)->select(scores_of(score_NE), bias, context_of(N));
      const auto compared_NE = bias.defined() ? score_NE + bias : score_NE;
      const auto chosen = chosen_by(asked, N);
      for (int64_t n = 0; n < N; ++n) CHECK(chosen[static_cast<size_t>(n)] == searched(reals(compared_NE[n]), l));
      // Limits hold exactly, and ranks follow the scores.
      const auto token = ints(asked.token_A), expert = ints(asked.expert_A), rank = ints(asked.rank_A);
      const auto score = reals(asked.score_A);
      for (int64_t n = 0; n < N; ++n) {
        std::map<int64_t, int64_t> in_group;
        for (const auto e : chosen[static_cast<size_t>(n)]) ++in_group[e / (E / l.groups)];
        CHECK(static_cast<int64_t>(in_group.size()) <= l.top_groups);
        if (l.within == "each")
          for (const auto& [group, count] : in_group) CHECK(count == l.k);
      }
      for (size_t i = 1; i < token.size(); ++i)
        if (token[i] == token[i - 1]) CHECK((rank[i] == rank[i - 1] + 1 && score[i] <= score[i - 1]));
      ++compared;
    }
  }
  CHECK(compared > 100);
}

TEST_CASE_FIXTURE(OneThread, "the margin of grouped_top_k is where the choice is lost") {
  const int64_t N = 5, E = 12;
  const auto score_NE = numbers(Random(3), {N, E}, 0, 1, at::kDouble);
  int64_t finite = 0, infinite = 0;
  for (const auto& l : limits(E)) {
    CAPTURE(words(l));
    const auto selector = made(l, E);
    const auto asked = selector->select(scores_of(score_NE), {}, context_of(N));
    const auto token = ints(asked.token_A), expert = ints(asked.expert_A);
    const auto margin = reals(asked.margin_A);
    for (size_t i = 0; i < token.size(); ++i) {
      const auto stays = [&](double fall) {
        auto moved_NE = score_NE.clone();
        moved_NE[token[i]][expert[i]] -= fall;
        const auto chosen = chosen_by(selector->select(scores_of(moved_NE), {}, context_of(N)), N);
        return chosen[static_cast<size_t>(token[i])].count(expert[i]) > 0;
      };
      if (std::isinf(margin[i])) {
        ++infinite;
        CHECK(stays(1e6));
      } else {
        ++finite;
        CHECK(stays(margin[i] - 1e-9));
        CHECK_FALSE(stays(margin[i] + 1e-9));
      }
    }
  }
  CHECK(finite > 100);
  CHECK(infinite > 10);
}

TEST_CASE_FIXTURE(OneThread, "prototypes are k top-1 routers of their own") {
  const int64_t N = 20, D = 5, E = 6, Z = 3, S = E / Z;
  const auto router = make_router({.name = "prototypes", .fields = table({{"prototypes", Z}})}, D, E, 4, at::kDouble);
  scale_parameters(*router, 5);
  const auto weight_ED = *parameters_of(*router).front().tensor;
  const auto x_ND = numbers(Random(6), {N, D}, -1, 1, at::kDouble);
  const auto routing = router->route(x_ND, context_of(N));
  const auto got_NE =
      at::zeros({N, E}, at::kDouble)
          .index_put({routing.decision.token_R(), routing.decision.expert_R()}, routing.decision.gate_R().detach());
  CHECK(routing.decision.n_kept() == N * Z);
  for (int64_t z = 0; z < Z; ++z) {
    const auto alone = make_router({.name = "switch", .fields = table({{"capacity_factor", 0.0}, {"jitter", 0.0}})}, D,
                                   S, 1, at::kDouble);
    {
      const at::NoGradGuard no_grad;
      parameters_of(*alone).front().tensor->copy_(weight_ED.slice(0, z * S, (z + 1) * S));
    }
    const auto d = alone->route(x_ND, context_of(N)).decision;
    const auto wanted_NS = at::zeros({N, S}, at::kDouble).index_put({d.token_R(), d.expert_R()}, d.gate_R().detach());
    CHECK(difference(got_NE.slice(1, z * S, (z + 1) * S), wanted_NS) < 1e-12);
    CHECK(at::equal(got_NE.slice(1, z * S, (z + 1) * S).gt(0), wanted_NS.gt(0)));
  }
}

TEST_CASE_FIXTURE(OneThread, "gradients of the grouped routers") {
  const int64_t N = 5, D = 3, E = 4;
  for (const auto* name : {"prototypes", "switch_mixture", "group_limited"}) {
    CAPTURE(name);
    const auto router = make_router({.name = name}, D, E, 2, at::kDouble);
    scale_parameters(*router, 5);
    auto x_ND = numbers(Random(7), {N, D}, -1, 1, at::kDouble).requires_grad_(true);
    std::vector<Variable> variables = {{"x", x_ND}};
    for (const auto& p : parameters_of(*router))
      if (p.trained()) variables.push_back({p.name, *p.tensor});
    const auto report = check_gradients(
        [&] {
          const auto r = router->route(x_ND, context_of(N));
          return Evaluated{r.decision.gate_R(), choice_of(r.decision)};
        },
        variables);
    CHECK(report.is_smooth);
    CHECK_MESSAGE(report.worst < 1e-7, report.where);
    CHECK(report.largest > 1e-3);
  }
}

TEST_CASE_FIXTURE(OneThread, "one group is plain top-k, to the bit") {
  const int64_t N = 16, E = 6;
  const auto score_NE = numbers(Random(9), {N, E}, 0, 1);
  const auto grouped = made({1, 1, 3, "sum", "together"}, E)->select(scores_of(score_NE), {}, context_of(N));
  const Named named{.name = "top_k", .fields = table({{"k", 3}})};
  const auto plain = find(selectors(), named, "selector")
                         .make(named, {.d_model = 4, .n_experts = E, .options = at::kFloat})
                         ->select(scores_of(score_NE), {}, context_of(N));
  CHECK(same_bits(grouped.expert_A, plain.expert_A));
  CHECK(same_bits(grouped.score_A, plain.score_A));
  CHECK(same_bits(grouped.margin_A, plain.margin_A));
}

TEST_CASE_FIXTURE(OneThread, "groups that do not fit are refused") {
  CHECK(complaint([] { made({5, 1, 1, "sum", "each"}, 12); }).find("do not divide") != std::string::npos);
  CHECK(complaint([] { made({4, 5, 1, "sum", "each"}, 12); }).find("top_groups = 5") != std::string::npos);
  CHECK(complaint([] { made({4, 1, 4, "sum", "each"}, 12); }).find("k = 4") != std::string::npos);
  CHECK(complaint([] { made({4, 2, 7, "sum", "together"}, 12); }).find("k = 7") != std::string::npos);
}
