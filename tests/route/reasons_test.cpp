// What a selector says its choices turn on, held to the selector itself: a score a little above the stated value is
// chosen and one a little below is not, all others the same. One case at least for each kind of selector.
//
// N tokens, E experts.
#include <map>
#include <set>

#include "collegium/route/turning.h"
#include "tests/support/routing.h"

namespace {

using namespace collegium;
using namespace collegium::route;
using namespace collegium::test;

constexpr int64_t kTokens = 12, kSequence = 6, kExperts = 8;
constexpr double kStep = 1e-6;

struct Case {
  const char* selector;
  Table fields;
  bool has_bias = false, has_logits = false, is_closed = false, is_masked = false;
};

using Pairs = std::set<std::pair<int64_t, int64_t>>;

struct Asked {
  std::unique_ptr<Selector> selector;
  Scores scores;
  Tensor bias_E;
  Context context;

  explicit Asked(const Case& c) {
    const Named named{.name = c.selector, .fields = c.fields};
    selector = find(selectors(), named, "selector")
                   .make(named, {.d_model = 4, .n_experts = kExperts, .random = Random(3), .options = at::kDouble});
    const auto kinds = selector->needs().scores;
    const bool is_relu = kinds == std::vector{ScoreKind::relu};
    const auto logit_NE = numbers(Random(11), {kTokens, kExperts}, -1, 1, at::kDouble);
    scores.kind = is_relu ? ScoreKind::relu : ScoreKind::softmax;
    scores.score_NE = is_relu ? logit_NE.relu() : logit_NE.softmax(1);
    if (is_relu || c.has_logits) scores.logit_NE = logit_NE;
    scores.n_tokens = kTokens, scores.n_experts = kExperts;
    if (c.has_bias) bias_E = numbers(Random(12), {kExperts}, -0.1, 0.1, at::kDouble);
    if (c.is_closed) {
      scores.open_NE = numbers(Random(13), {kTokens, kExperts}).gt(-0.3);
      scores.score_NE = scores.score_NE * scores.open_NE;
    }
    context = context_of(kTokens, kTokens / kSequence);
    context.token_id_N = at::arange(kTokens);
    context.attention_BTT = some_attention(kTokens / kSequence, kSequence, at::kDouble);
    context.mask_N = c.is_masked ? at::arange(kTokens).remainder(5).ne(3) : Tensor();
  }
  bool is_real(int64_t n) const { return !context.mask_N.defined() || context.mask_N[n].item<bool>(); }

  std::map<std::pair<int64_t, int64_t>, double> margins() {
    const auto asked = selector->select(scores, bias_E, context);
    std::map<std::pair<int64_t, int64_t>, double> out;
    for (int64_t a = 0; a < asked.token_A.size(0); ++a)
      out[{asked.token_A[a].item<int64_t>(), asked.expert_A[a].item<int64_t>()}] = asked.margin_A[a].item<double>();
    return out;
  }
  // With what is compared of one token and expert set to `value`.
  bool is_chosen_at(int64_t n, int64_t e, double value, std::string_view compares) {
    const auto before = scores;
    if (compares == "logit") {
      scores.logit_NE = scores.logit_NE.clone();
      scores.logit_NE[n][e] = value;
      if (scores.kind == ScoreKind::relu) scores.score_NE = scores.logit_NE.relu();
    } else {
      scores.score_NE = scores.score_NE.clone();
      scores.score_NE[n][e] = value - (bias_E.defined() ? bias_E[e].item<double>() : 0.0);
    }
    const bool is_chosen = margins().contains({n, e});
    scores = before;
    return is_chosen;
  }
};

Table grouped(int64_t groups, int64_t top, int64_t k, const char* score, const char* within) {
  return table({{"groups", groups}, {"top_groups", top}, {"k", k}, {"group_score", score}, {"within", within}});
}

const std::vector<Case>& cases() {
  static const std::vector<Case> all = {
      {"top_k", table({{"k", 2}})},
      {"top_k", table({{"k", 2}}), true},
      {"top_k", table({{"k", kExperts}})},
      {"top_k", table({{"k", 3}}), true, false, true},
      {"grouped_top_k", grouped(4, 1, 2, "sum", "together"), true},
      {"grouped_top_k", grouped(4, 2, 3, "sum", "together")},
      {"grouped_top_k", grouped(2, 1, 2, "max", "together")},
      {"grouped_top_k", grouped(2, 1, 2, "top2_sum", "together"), true},
      {"grouped_top_k", grouped(4, 4, 1, "sum", "each")},
      {"grouped_top_k", grouped(4, 2, 1, "max", "each")},
      {"grouped_top_k", grouped(2, 1, 3, "top2_sum", "each")},
      {"top_p", table({{"p", 0.5}})},
      {"top_p", table({{"p", 0.9}, {"max_k", 2}})},
      {"positive", Table()},
      {"importance_top_k", table({{"budget", 2.0}, {"max_k", 4}}), true, false, false, true},
      {"expert_choice", table({{"capacity_factor", 2.0}}), false, false, false, true},
      {"patch_choice", table({{"l", 2}}), false, false, false, true},
      {"balanced_assignment", Table(), false, true},
      {"balanced_assignment", Table()},
  };
  return all;
}

}  // namespace

TEST_CASE_FIXTURE(OneThread, "choices turn where the selector says they do, and margins are the distance to there") {
  for (const auto& c : cases()) {
    Asked asked(c);
    CAPTURE(c.selector);
    INFO(to_toml(c.fields));
    const auto why = asked.selector->reasons(asked.scores, asked.bias_E, asked.context);
    CHECK_FALSE(why.rule.empty());
    const auto margins = asked.margins();
    int64_t turned = 0, raised = 0;
    for (int64_t n = 0; n < kTokens; ++n)
      for (int64_t e = 0; e < kExperts; ++e) {
        CAPTURE(n);
        CAPTURE(e);
        const auto at = why.turns_at_NE[n][e].item<double>(), now = why.compared_NE[n][e].item<double>();
        const bool is_chosen = margins.contains({n, e});
        if (!asked.is_real(n)) {
          CHECK_FALSE(is_chosen);
          continue;
        }
        if (std::isinf(at)) {
          CHECK(is_chosen == (at < 0));
          if (at < 0) CHECK(std::isinf(margins.at({n, e})));
          continue;
        }
        if (is_chosen)
          CHECK(margins.at({n, e}) == doctest::Approx(now - at).epsilon(1e-9));
        else
          CHECK(now <= at + 1e-12);
        CHECK(asked.is_chosen_at(n, e, at + kStep, why.compares));
        CHECK_FALSE(asked.is_chosen_at(n, e, at - kStep, why.compares));
        ++turned, raised += !is_chosen;
      }
    const bool takes_all = c.fields == table({{"k", kExperts}});
    CHECK((turned > 0) != takes_all);
    CHECK((raised > 0) != takes_all);
  }
}

TEST_CASE("every selector has a case here, or says that no score decides") {
  std::set<std::string> seen;
  for (const auto& c : cases()) seen.insert(c.selector);
  for (const auto* e : selectors()) {
    const std::string name(e->card.name);
    if (seen.contains(name)) continue;
    CAPTURE(name);
    Asked asked({name.c_str(), Table()});
    const auto why = asked.selector->reasons(asked.scores, {}, asked.context);
    CHECK_FALSE(why.rule.empty());
    CHECK_FALSE(why.turns_at_NE.defined());
    CHECK((e->card.claims.chooser == Chooser::nobody));
  }
}

TEST_CASE("a selector that assigns a batch together says so") {
  Asked asked({"balanced_assignment", Table()});
  asked.context.phase = Phase::train;
  const auto why = asked.selector->reasons(asked.scores, {}, asked.context);
  CHECK_FALSE(why.turns_at_NE.defined());
  CHECK(why.rule == "the whole batch is assigned together, in equal loads");
}

TEST_CASE("groups and whether they are taken") {
  Asked asked({"grouped_top_k", grouped(4, 1, 2, "sum", "together")});
  const auto why = asked.selector->reasons(asked.scores, {}, asked.context);
  CHECK(why.group_E == std::vector<int64_t>{0, 0, 1, 1, 2, 2, 3, 3});
  for (const auto& [pair, margin] : asked.margins()) CHECK(why.group_taken_NE[pair.first][pair.second].item<bool>());
  CHECK(at::equal(why.group_taken_NE.sum(1), at::full({kTokens}, 2, at::kLong)));
}

TEST_CASE_FIXTURE(OneThread, "a router gives reasons when it is asked, over null experts too") {
  Composition composition;
  composition.selector.fields = table({{"k", 2}});
  composition.null_experts = 2;
  const auto router =
      Router::compose(composition, {.d_model = 4, .n_experts = 3, .random = Random(5), .options = at::kDouble}, "");
  const auto x_ND = numbers(Random(6), {kTokens, 4}, -1, 1, at::kDouble);
  auto context = context_of(kTokens);
  CHECK_FALSE(router->route(x_ND, context).reasons.turns_at_NE.defined());
  context.explain = true;
  const auto routing = router->route(x_ND, context);
  REQUIRE(routing.reasons.turns_at_NE.size(1) == 5);
  const auto chosen_NE = routing.reasons.compared_NE.gt(routing.reasons.turns_at_NE);
  CHECK(at::equal(chosen_NE.sum(1), at::full({kTokens}, 2, at::kLong)));
  CHECK(chosen_NE.slice(1, 0, 3).sum().item<int64_t>() == routing.decision.n_kept());
}

TEST_CASE("the k-th best of the others") {
  const auto t = at::tensor({3.0, 1.0, 2.0, 2.0}, at::kDouble).unsqueeze(0);
  constexpr auto infinity = std::numeric_limits<double>::infinity();
  const auto of = [&](int64_t k) {
    const auto out = kth_of_others(t, k);
    return std::vector<double>(out.const_data_ptr<double>(), out.const_data_ptr<double>() + 4);
  };
  CHECK(of(0) == std::vector<double>(4, infinity));
  CHECK(of(1) == std::vector<double>{2, 3, 3, 3});
  CHECK(of(2) == std::vector<double>{2, 2, 2, 2});
  CHECK(of(3) == std::vector<double>{1, 2, 1, 1});
  CHECK(of(4) == std::vector<double>(4, -infinity));
  CHECK(of(9) == std::vector<double>(4, -infinity));
}
