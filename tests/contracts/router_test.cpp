// What every router holds, preset or composed: each check runs over every entry of the lists, with the default
// configuration, some named settings, and every composition of stages that can be built.
//
// N tokens, D model width, E experts.
#include <map>
#include <set>

#include "collegium/route/losses.h"
#include "tests/support/router_variants.h"

namespace {

using namespace collegium;
using namespace collegium::route;
using namespace collegium::test;
using namespace collegium::test::router_variants;

// Sets every selection bias of the balancers to numbers that tell experts apart; true where there is one.
bool set_biases(Router& router) {
  const at::NoGradGuard no_grad;
  bool has_bias = false;
  for (const auto& p : parameters_of(router)) {
    if (p.trained() || !(p.name == "bias" || p.name.ends_with(".bias"))) continue;
    p.tensor->copy_(at::arange(p.tensor->numel(), p.tensor->options()).remainder(3).sub(1).mul(0.4));
    has_bias = true;
  }
  return has_bias;
}

// The same router without a limit on the room, weights copied.
std::unique_ptr<Router> without_limit(Router& router) {
  auto composition = *router.composition();
  composition.capacity = {.name = "unlimited"};
  auto out = Router::compose(composition, stage_inputs(), "");
  load(*out, save(router));
  return out;
}

Tensor inputs(uint64_t seed = 3, int64_t n = kTokens, at::ScalarType type = at::kFloat) {
  return numbers(Random(seed), {n, kWidth}, -1, 1, type);
}

// Experts that scores are for: null experts, too.
int64_t scored_experts(const Router& router) {
  return kExperts + router.composition()->null_experts;
}

// Weights that send every token to one expert (where scores decide), given inputs whose first feature is 1.
// True when one of them meets the hidden states themselves, so that they must choose that expert.
bool favour(Router& router, int64_t expert) {
  const at::NoGradGuard no_grad;
  bool meets_states = false;
  for (const auto& p : parameters_of(router)) {
    const bool is_of_groups = p.name == "scorer.group";  // of neighbouring experts: a first level
    if (!p.trained() || p.tensor->dim() != 2 || !(is_of_groups || p.tensor->size(0) == scored_experts(router)))
      continue;
    p.tensor->select(1, 0).fill_(-9);
    p.tensor->select(1, 0)
        .select(0, is_of_groups ? expert * p.tensor->size(0) / scored_experts(router) : expert)
        .fill_(9);
    meets_states = meets_states || p.tensor->size(1) == kWidth;
  }
  return meets_states;
}

double total(const std::vector<LossTerm>& losses) {
  double sum = 0;
  for (const auto& l : losses) sum += l.value.item<double>();
  return sum;
}

Context rows_of(const Context& context, const Tensor& index) {
  auto out = context;
  out.token_id_N = context.token_id_N.index_select(0, index);
  if (context.mask_N.defined()) out.mask_N = context.mask_N.index_select(0, index);
  out.sequence_N = Tensor();
  out.n_sequences = 1;
  if (context.attention_BTT.size(0) == 1)
    out.attention_BTT = context.attention_BTT.index_select(1, index).index_select(2, index);
  return out;
}

}  // namespace

TEST_CASE_FIXTURE(OneThread, "every stage of every list is part of some composition") {
  std::map<std::string, std::set<std::string>> used;
  for (const auto& v : compositions()) {
    const auto c = read_config<Composition>(v.named.fields);
    used["scorer"].insert(c.scorer.name), used["selector"].insert(c.selector.name);
    used["capacity"].insert(c.capacity.name), used["gate"].insert(c.gate.name);
    for (const auto& b : c.balancers) used["balancer"].insert(b.name);
  }
  const auto check = [&](const auto& entries, const std::string& what) {
    for (const auto* e : entries)
      CHECK_MESSAGE(used[what].count(std::string(e->card.name)), what << " " << e->card.name);
  };
  check(scorers(), "scorer"), check(selectors(), "selector"), check(capacities(), "capacity");
  check(gates(), "gate"), check(balancers(), "balancer");
}

TEST_CASE_FIXTURE(OneThread, "claims of the cards are those of the built parts") {
  for (const auto* e : routers()) {
    CAPTURE(e->card.name);
    const auto facts = built({.name = std::string(e->card.name)})->facts();
    CHECK((facts.chooser == e->card.claims.chooser));
    CHECK(facts.is_exactly_balanced == e->card.claims.is_exactly_balanced);
    CHECK(facts.is_causal == e->card.claims.is_causal);
    CHECK(facts.is_causal_in_training == (e->card.claims.is_causal && e->card.claims.is_causal_in_training));
    CHECK(facts.needs == e->card.claims.needs);
  }
  for (const auto* e : selectors()) {
    CAPTURE(e->card.name);
    const auto claims = e->make({.name = std::string(e->card.name)}, stage_inputs())->claims();
    CHECK(claims.describe() == e->card.claims.describe());
  }
  for (const auto* e : capacities()) {
    CAPTURE(e->card.name);
    const auto claims = e->make({.name = std::string(e->card.name)}, stage_inputs())->claims();
    // The card speaks for every setting, so it may promise less than one setting keeps.
    CHECK((claims.is_causal || !e->card.claims.is_causal));
    CHECK((!claims.may_drop || e->card.claims.may_drop));
  }
}

TEST_CASE_FIXTURE(OneThread, "decisions are well formed, in shape, type and order") {
  for (const auto& v : everything()) {
    CAPTURE(v.what);
    for (const auto type : {at::kFloat, at::kDouble, at::kBFloat16}) {
      const auto router = built(v.named);
      const auto x_ND = inputs(3, kTokens, type);
      const auto r = router->route(x_ND, context_of(kTokens, 3, Phase::train));
      check_decision(r.decision, kTokens, kExperts);
      if (r.scores.score_NE.defined()) {
        CHECK((r.scores.score_NE.sizes() == at::IntArrayRef{kTokens, scored_experts(*router)}));
        CHECK((r.scores.score_NE.scalar_type() == router_dtype(x_ND)));
        CHECK(r.scores.score_NE.ge(0).all().item<bool>());
      } else {
        CHECK((r.scores.kind == ScoreKind::none));
      }
      for (const auto& l : r.losses) {
        CHECK(l.value.dim() == 0);
        CHECK(std::isfinite(l.value.item<double>()));
        CHECK(std::isfinite(l.raw));
        CHECK_FALSE(l.name.empty());
      }
    }
  }
}

TEST_CASE_FIXTURE(OneThread, "bfloat16 inputs are routed in float32") {
  for (const auto& v : everything()) {
    CAPTURE(v.what);
    const auto x_ND = inputs().to(at::kBFloat16);
    const auto low = built(v.named)->route(x_ND, context_of(kTokens));
    const auto high = built(v.named)->route(x_ND.to(at::kFloat), context_of(kTokens));
    CHECK(same_decision(low.decision, high.decision));
  }
}

TEST_CASE_FIXTURE(OneThread, "kept and dropped are together what was asked for") {
  int64_t drops = 0;
  for (const auto& v : everything()) {
    CAPTURE(v.what);
    const auto router = built(v.named), free = without_limit(*router);
    const auto context = context_of(kTokens, 3);
    const auto limited = router->route(inputs(), context).decision, all = free->route(inputs(), context).decision;
    CHECK(all.n_dropped() == 0);
    CHECK(limited.n_asked() == all.n_kept());
    CHECK(asked_ranks(limited) == asked_ranks(all));
    drops += limited.n_dropped();
    auto pairs_of_limited = asked_pairs(limited);
    CHECK(pairs_of_limited == pairs(all.token_R(), all.expert_R()));
    CHECK(at::equal(limited.asked_E(), all.kept_E()));
  }
  CHECK(drops > 0);
}

TEST_CASE_FIXTURE(OneThread, "exact balance, where it is claimed") {
  int claimed = 0;
  for (const auto& v : everything()) {
    CAPTURE(v.what);
    const auto router = built(v.named);
    if (!router->facts().is_exactly_balanced) continue;
    ++claimed;
    favour(*router, 2);
    auto x_ND = inputs();
    x_ND.select(1, 0).fill_(1);
    const auto load = router->route(x_ND, context_of(kTokens)).decision.kept_E();
    CHECK(load.max().item<int64_t>() == load.min().item<int64_t>());
    CHECK(load.min().item<int64_t>() > 0);
  }
  CHECK(claimed > 0);
}

TEST_CASE_FIXTURE(OneThread, "causal routers do not look at later tokens") {
  int causal = 0, seen_to_look = 0;
  for (const auto& v : everything()) {
    CAPTURE(v.what);
    const auto router = built(v.named);
    const auto context = context_of(kTokens);
    bool looks = false;
    for (const int64_t cut : {1, 5, 11}) {
      for (const uint64_t seed : {21, 22, 23}) {
        const auto x_ND = inputs();
        auto other_ND = x_ND.clone();
        // Large changes, so that scores, loads and, under ReLU, the number of choices all move.
        other_ND.slice(0, cut).copy_(8 * inputs(seed).slice(0, cut));
        const auto a = router->route(x_ND, context).decision, b = router->route(other_ND, context).decision;
        const auto before = [&](const Decision& d) {
          const auto early = d.token_R().lt(cut).nonzero().flatten();
          return at::cat({d.token_R().index_select(0, early).to(at::kDouble),
                          d.expert_R().index_select(0, early).to(at::kDouble),
                          d.gate_R().detach().index_select(0, early).to(at::kDouble)});
        };
        looks = looks || !same_bits(before(a), before(b));
      }
    }
    if (router->facts().is_causal) CHECK_FALSE(looks);
    causal += router->facts().is_causal;
    seen_to_look += looks;
  }
  CHECK(causal > 0);
  CHECK(seen_to_look > 0);
}

TEST_CASE_FIXTURE(OneThread, "who chooses") {
  for (const auto& v : everything()) {
    CAPTURE(v.what);
    const auto router = built(v.named);
    const auto facts = router->facts();
    if (facts.may_drop) continue;
    const auto a = router->route(inputs(3), context_of(kTokens)).decision;
    if (facts.chooser == Chooser::nobody) {
      const auto b = router->route(inputs(4), context_of(kTokens)).decision;
      CHECK(same_bits(choice_of(a), choice_of(b)));
      continue;
    }
    // The last token changes. If tokens choose, it alone is concerned. If experts choose, the first token may be.
    auto other_ND = inputs(3).clone();
    other_ND.select(0, kTokens - 1).mul_(-3);
    const auto b = router->route(other_ND, context_of(kTokens)).decision;
    const auto early = [&](const Decision& d) {
      auto p = pairs(d.token_R(), d.expert_R());
      for (auto i = p.begin(); i != p.end();) i = i->first == kTokens - 1 ? p.erase(i) : std::next(i);
      return p;
    };
    if (facts.chooser == Chooser::token) CHECK(early(a) == early(b));
    if (facts.chooser != Chooser::expert) continue;
    // An expert's choice has nothing to do with another expert's: ranks count inside the expert.
    const auto load = ints(a.kept_E());
    const auto expert = ints(a.expert_R()), rank = ints(a.rank_R());
    for (size_t r = 0; r < rank.size(); ++r) CHECK(rank[r] < load[static_cast<size_t>(expert[r])]);
  }
}

TEST_CASE_FIXTURE(OneThread, "token ids are asked for where they are needed, and only there") {
  int needed = 0;
  for (const auto& v : everything()) {
    CAPTURE(v.what);
    const auto router = built(v.named);
    auto context = context_of(kTokens);
    const auto with = router->route(inputs(), context);
    context.token_id_N = Tensor();
    if (router->facts().needs.token_ids) {
      ++needed;
      CHECK(complaint([&] { router->route(inputs(), context); }).find("need token ids") != std::string::npos);
    } else {
      CHECK(same_decision(with.decision, router->route(inputs(), context).decision));
    }
  }
  CHECK(needed > 0);
}

TEST_CASE_FIXTURE(OneThread, "the order of the tokens does not matter without a limit") {
  for (const auto& v : everything()) {
    CAPTURE(v.what);
    const auto router = built(v.named);
    if (router->facts().may_drop || router->facts().is_random || router->facts().reads_other_tokens) continue;
    const auto order = at::tensor(std::vector<int64_t>{7, 0, 3, 11, 1, 9, 2, 4, 10, 5, 8, 6});
    const auto context = context_of(kTokens);
    const auto straight = router->route(inputs(), context),
               mixed = router->route(inputs().index_select(0, order), rows_of(context, order));
    const auto& d = mixed.decision;
    CHECK(pairs(order.index_select(0, d.token_R()), d.expert_R()) ==
          pairs(straight.decision.token_R(), straight.decision.expert_R()));
    const auto gate_NE = [](const Decision& from, const Tensor& token_R) {
      return at::zeros({kTokens, kExperts}, from.gate_R().options())
          .index_put({token_R, from.expert_R()}, from.gate_R().detach());
    };
    CHECK(difference(gate_NE(d, order.index_select(0, d.token_R())),
                     gate_NE(straight.decision, straight.decision.token_R())) < 1e-6);
    CHECK(total(mixed.losses) == doctest::Approx(total(straight.losses)).epsilon(1e-5));
  }
}

TEST_CASE_FIXTURE(OneThread, "a token's decision is the same in whatever company, to the bit") {
  for (const auto& v : everything()) {
    CAPTURE(v.what);
    const auto router = built(v.named);
    if (router->facts().may_drop || router->facts().chooser == Chooser::expert) continue;
    const auto context = context_of(kTokens);
    const auto all = router->route(inputs(), context).decision;
    for (const int64_t n : {1, 5, 7}) {
      const auto part = router->route(inputs().slice(0, 0, n), rows_of(context, at::arange(n))).decision;
      const auto early = all.token_R().lt(n).nonzero().flatten();
      const auto same = [&](const Tensor& a, const Tensor& b) {
        return same_bits(a.detach().index_select(0, early), b.detach());
      };
      CHECK(same(all.token_R(), part.token_R()));
      CHECK(same(all.expert_R(), part.expert_R()));
      CHECK(same(all.rank_R(), part.rank_R()));
      CHECK(same(all.gate_R(), part.gate_R()));
      CHECK(same(all.score_R(), part.score_R()));
      CHECK(same(all.margin_R(), part.margin_R()));
    }
  }
}

TEST_CASE("threads do not change a bit") {
  const int64_t many = 6000;  // enough that every loop is cut
  for (const auto& v : presets()) {
    CAPTURE(v.what);
    const auto x_ND = inputs(8, many);
    const auto run = [&](int threads) {
      const Threads guard(threads);
      const auto router = built(v.named);
      return router->route(x_ND, context_of(many, 3, Phase::train));
    };
    const auto one = run(1), two = run(2);
    CHECK(same_decision(one.decision, two.decision));
    CHECK(same_bits(one.scores.score_NE, two.scores.score_NE));
  }
}

TEST_CASE_FIXTURE(OneThread, "ties go to the lower expert, then to the earlier token") {
  for (const auto& v : everything()) {
    CAPTURE(v.what);
    const auto router = built(v.named);
    if (router->facts().chooser == Chooser::nobody) continue;
    // Scores that come from the experts' weights alone have no ties here.
    const auto all = parameters_of(*router);
    if (router->facts().needs.experts &&
        std::none_of(all.begin(), all.end(), [](const auto& p) { return p.trained(); }))
      continue;
    scale_parameters(*router, 0);
    const auto d = router->route(inputs(), context_of(kTokens)).decision;
    const auto token = ints(d.token_R()), expert = ints(d.expert_R()), rank = ints(d.rank_R()), slot = ints(d.slot_R());
    const auto wanted = ints(d.wanted_R());
    if (router->facts().chooser == Chooser::expert) {
      for (size_t r = 0; r < token.size(); ++r) CHECK((token[r] == slot[r] && rank[r] == slot[r]));
      continue;
    }
    if (router->facts().chooses_any_set) {
      for (size_t r = 0; r < token.size(); ++r) CHECK((wanted[r] == rank[r] || wanted[r] < 0));
      const auto gone_rank = ints(d.dropped().rank_Q);
      for (size_t q = 0; q < gone_rank.size(); ++q) CHECK(ints(d.dropped().expert_Q)[q] == gone_rank[q]);
    } else {
      for (size_t r = 0; r < token.size(); ++r)
        for (size_t s = 0; s < token.size(); ++s)
          if (token[r] == token[s] && wanted[r] < wanted[s]) CHECK(rank[r] < rank[s]);
    }
    // Among equals at one expert, the ones without room are the later tokens.
    const auto gone_token = ints(d.dropped().token_Q), gone_expert = ints(d.dropped().expert_Q);
    for (size_t q = 0; q < gone_token.size(); ++q)
      for (size_t r = 0; r < token.size(); ++r)
        if (expert[r] == gone_expert[q] && wanted[r] >= 0) CHECK(token[r] < gone_token[q]);
  }
}

TEST_CASE_FIXTURE(OneThread, "the same seed gives the same router and the same decision") {
  for (const auto& v : everything()) {
    CAPTURE(v.what);
    const auto a = built(v.named, 1), b = built(v.named, 1), c = built(v.named, 2);
    CHECK(same_state(save(*a), save(*b)));
    const auto context = context_of(kTokens, 3, Phase::train);
    CHECK(same_decision(a->route(inputs(), context).decision, b->route(inputs(), context).decision));
    bool has_weights = false;
    for (const auto& s : save(*a)) has_weights = has_weights || s.is_trained;
    if (has_weights) CHECK_FALSE(same_state(save(*a), save(*c)));
  }
}

TEST_CASE_FIXTURE(OneThread, "saved and loaded, a router decides as before") {
  for (const auto& v : everything()) {
    CAPTURE(v.what);
    const auto a = built(v.named, 1), b = built(v.named, 2);
    for (const uint64_t seed : {4, 5}) a->route(inputs(seed), context_of(kTokens, 3, Phase::train)), a->step();
    a->route(inputs(6), context_of(kTokens, 3, Phase::train));
    const auto saved = save(*a);
    CHECK(load(*b, saved) == saved.size());
    for (int step = 0; step < 2; ++step) {
      const auto context = context_of(kTokens, 3, Phase::train);
      const auto p = a->route(inputs(), context), q = b->route(inputs(), context);
      CHECK(same_decision(p.decision, q.decision));
      CHECK(total(p.losses) == total(q.losses));
      a->step(), b->step();
      CHECK(same_state(save(*a), save(*b)));
    }
  }
}

TEST_CASE_FIXTURE(OneThread, "no token, one token, empty experts, one expert for all") {
  for (const auto& v : everything()) {
    CAPTURE(v.what);
    const auto router = built(v.named);
    for (const int64_t n : {0, 1}) {
      CAPTURE(n);
      const auto r = router->route(inputs(3, n), context_of(n, 1, Phase::train));
      check_decision(r.decision, n, kExperts);
      CHECK(std::isfinite(total(r.losses)));
      router->step();
    }
    const bool is_favoured = favour(*router, 1);
    // Equal tokens, so that scores which are no dot products agree on an expert, too.
    auto x_ND = inputs().slice(0, 0, 1).repeat({kTokens, 1});
    x_ND.select(1, 0).fill_(1);
    auto context = context_of(kTokens, 3, Phase::train);
    context.token_id_N.fill_(17);
    const auto r = router->route(x_ND, context);
    check_decision(r.decision, kTokens, kExperts);
    CHECK(std::isfinite(total(r.losses)));
    if (router->facts().chooser == Chooser::token && router->facts().is_causal_in_training) {
      const auto asked = ints(without_limit(*router)->route(x_ND, context).decision.asked_E());
      CHECK(*std::max_element(asked.begin(), asked.end()) == kTokens);
    }
    // Expert 1 it is, where nothing is closed; evaluation has no dropout and no competition.
    context.phase = Phase::evaluate;
    if (const auto free = without_limit(*router)->route(x_ND, context);
        is_favoured && router->facts().chooser == Chooser::token && !free.scores.open_NE.defined())
      CHECK(ints(free.decision.asked_E())[1] == kTokens);
    router->step();
  }
}

TEST_CASE_FIXTURE(OneThread, "masked tokens are not routed and have no influence") {
  for (const auto& v : everything()) {
    CAPTURE(v.what);
    const auto mask_N = at::tensor(std::vector<int64_t>{1, 1, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0}).to(at::kBool);
    auto context = context_of(kTokens, 3, Phase::train);
    context.mask_N = mask_N;
    // Noise is drawn for a whole batch; without it the rows can be compared with a batch of other length.
    auto still = v.named;
    for (const auto& f : find(routers(), v.named, "router").fields())
      if (f.name == "jitter") still.fields.set("jitter", 0.0);
    const auto a = built(still), b = built(still), alone = built(still);
    const auto x_ND = inputs();
    auto other_ND = x_ND.clone();
    other_ND.index_put_({mask_N.logical_not()}, at::full({}, 1e3));
    auto other = context;
    other.token_id_N = context.token_id_N.masked_fill(mask_N.logical_not(), 1);
    const auto p = a->route(x_ND, context), q = b->route(other_ND, other);
    check_decision(p.decision, kTokens, kExperts, mask_N);
    CHECK(same_decision(p.decision, q.decision));
    CHECK(total(p.losses) == total(q.losses));
    CHECK(same_state(save(*a), save(*b)));

    // The real tokens by themselves: same choices, same losses, same counters.
    const auto real = mask_N.nonzero().flatten();
    auto short_context = context;
    short_context.token_id_N = context.token_id_N.index_select(0, real);
    short_context.sequence_N = context.sequence_N.index_select(0, real);
    short_context.n_sequences = 2;  // the third sequence was all padding
    const auto attention_of = [&](int64_t sequence, const std::vector<int64_t>& tokens) {
      const auto index = at::tensor(tokens);
      return context.attention_BTT[sequence].index_select(0, index).index_select(1, index);
    };
    short_context.attention_BTT = at::stack({attention_of(0, {0, 1, 3}), attention_of(1, {0, 1, 2})});
    short_context.mask_N = Tensor();
    const auto r = alone->route(x_ND.index_select(0, real), short_context);
    CHECK(same_bits(real.index_select(0, r.decision.token_R()), p.decision.token_R()));
    CHECK(same_bits(r.decision.expert_R(), p.decision.expert_R()));
    CHECK(difference(r.decision.gate_R(), p.decision.gate_R()) < 1e-6);
    CHECK(total(r.losses) == doctest::Approx(total(p.losses)).epsilon(1e-5));
    CHECK(same_state(save(*alone), save(*a)));
    a->step(), alone->step();
    CHECK(same_state(save(*alone), save(*a)));

    context.mask_N = at::zeros({kTokens}, at::kBool);
    const auto none = a->route(x_ND, context);
    CHECK(none.decision.n_asked() == 0);
    CHECK(std::isfinite(total(none.losses)));
  }
}

TEST_CASE_FIXTURE(OneThread, "only training leaves a mark") {
  int with_state = 0;
  for (const auto& v : everything()) {
    CAPTURE(v.what);
    const auto router = built(v.named);
    const auto before = save(*router);
    for (const auto phase : {Phase::evaluate, Phase::recompute, Phase::replay}) {
      router->route(inputs(), context_of(kTokens, 3, phase));
      CHECK(same_state(save(*router), before));
    }
    router->route(inputs(), context_of(kTokens, 3, Phase::train));
    const auto after = save(*router);
    bool is_pending = false;
    for (size_t i = 0; i < after.size(); ++i) {
      const bool counts = after[i].name.find("pending") != std::string::npos;
      is_pending = is_pending || counts;
      CHECK_MESSAGE(same_bits(after[i].value, before[i].value) == !counts, after[i].name);
    }
    with_state += is_pending;
    router->step();
    for (const auto& s : save(*router))
      if (s.name.find("pending") != std::string::npos) CHECK(s.value.abs().sum().item<double>() == 0);
  }
  CHECK(with_state > 0);
}

TEST_CASE_FIXTURE(OneThread,
                  "a pass whose losses nobody reads has none, decides as the others do and counts as they do") {
  for (const auto& v : everything()) {
    CAPTURE(v.what);
    for (const auto phase : {Phase::train, Phase::evaluate}) {
      const auto with = built(v.named), without = built(v.named);
      auto context = context_of(kTokens, 3, phase);
      const auto a = with->route(inputs(), context);
      context.losses = false;
      const auto b = without->route(inputs(), context);
      CHECK(b.losses.empty());
      CHECK(same_decision(a.decision, b.decision));
      CHECK(same_state(save(*with), save(*without)));
    }
  }
}

TEST_CASE_FIXTURE(OneThread,
                  "a mask that hides nothing changes nothing: the stages in turn decide as a routing in two passes") {
  const at::NoGradGuard no_grad;
  for (const auto& v : everything()) {
    CAPTURE(v.what);
    const auto router = built(v.named);
    auto context = context_of(kTokens, 3);
    const auto a = router->route(inputs(), context);
    context.mask_N = at::ones({kTokens}, at::kBool);
    const auto b = router->route(inputs(), context);
    CHECK(same_decision(a.decision, b.decision));
    REQUIRE(a.losses.size() == b.losses.size());
    for (size_t i = 0; i < a.losses.size(); ++i) {
      CHECK(a.losses[i].name == b.losses[i].name);
      CHECK(a.losses[i].raw == doctest::Approx(b.losses[i].raw));
    }
  }
}

TEST_CASE_FIXTURE(OneThread, "a recomputed pass decides as the first one did, noise included") {
  for (const auto& v : everything()) {
    CAPTURE(v.what);
    const auto router = built(v.named);
    const auto first = router->route(inputs(), context_of(kTokens, 3, Phase::train));
    const auto again = router->route(inputs(), context_of(kTokens, 3, Phase::recompute));
    CHECK(same_decision(first.decision, again.decision));
    CHECK(total(first.losses) == total(again.losses));
  }
}

TEST_CASE_FIXTURE(OneThread, "two passes and a step move the state as one pass over both does") {
  for (const auto& v : everything()) {
    CAPTURE(v.what);
    const auto halves = built(v.named), whole = built(v.named);
    // With a limit or an expert's choice, who is asked depends on the batch; with noise too.
    if (halves->facts().may_drop || halves->facts().chooser == Chooser::expert) continue;
    if (!halves->facts().is_causal_in_training || halves->facts().is_random) continue;
    if (halves->facts().reads_other_tokens) continue;
    const auto context = context_of(kTokens, 1, Phase::train);
    bool draws = false;
    for (const auto* field : {"jitter"})
      if (const auto* value = halves->composition()->scorer.fields.find(field))
        draws = draws || std::get<double>(value->data) > 0;
    if (draws) continue;
    for (int step = 0; step < 3; ++step) {
      const auto x_ND = inputs(static_cast<uint64_t>(step) + 30);
      const auto first = at::arange(5), second = at::arange(5, kTokens);
      for (const auto& part : {first, second}) halves->route(x_ND.index_select(0, part), rows_of(context, part));
      whole->route(x_ND, context);
      halves->step(), whole->step();
      CHECK(same_state(save(*halves), save(*whole)));
    }
  }
}

TEST_CASE_FIXTURE(OneThread, "the balance loss describes what was asked for, whatever a selection bias does") {
  int compared = 0, compared_biased = 0, moved = 0;
  for (const auto& v : everything()) {
    const auto plain = built(v.named), biased = built(v.named);
    const auto has_bias = set_biases(*biased);
    const auto& balancers_used = plain->composition()->balancers;
    for (int kind = 0; kind < (has_bias ? 4 : 2); ++kind) {
      const bool has_mask = kind % 2 == 1, is_biased = kind >= 2;
      CAPTURE(v.what);
      CAPTURE(has_mask);
      CAPTURE(is_biased);
      auto context = context_of(kTokens, 1, Phase::train);
      if (has_mask) context.mask_N = at::arange(kTokens).remainder(5).ne(2);
      const auto r = (is_biased ? biased : plain)->route(inputs(), context);
      if (is_biased) {
        CHECK(r.bias_E.abs().max().item<double>() > 0.3);
        moved += !same_decision(r.decision, plain->route(inputs(), context).decision);
      }
      // Loads are counts of the decision's own rows: what an expert works on, and what was asked of it.
      std::vector<int64_t> kept(kExperts), asked(kExperts);
      std::vector<double> first(kExperts);
      const auto& gone = r.decision.dropped();
      for (const auto e : ints(r.decision.expert_R())) ++kept[static_cast<size_t>(e)];
      CHECK(kept == ints(r.decision.kept_E()));
      const auto wanted_expert = ints(at::cat({r.decision.wanted_R(), gone.expert_Q}));
      const auto rank = ints(at::cat({r.decision.rank_R(), gone.rank_Q}));
      for (size_t a = 0; a < wanted_expert.size(); ++a) {
        if (wanted_expert[a] < 0) continue;  // fills a free slot
        ++asked[static_cast<size_t>(wanted_expert[a])];
        first[static_cast<size_t>(wanted_expert[a])] += rank[a] == 0;
      }
      CHECK(asked == ints(r.decision.asked_E()));
      size_t term = 0;
      for (const auto& b : balancers_used) {
        if (term >= r.losses.size() || r.losses[term].name != b.name) continue;
        const auto& loss = r.losses[term++];
        if (b.name != "balance_loss") continue;
        const auto convention = std::get<std::string>(b.fields.find("convention")->data);
        const auto coefficient = std::get<double>(b.fields.find("coefficient")->data);
        // By hand, from those counts and the scores, which no bias enters.
        const auto score = reals(r.scores.score_NE);
        std::vector<double> mean(kExperts);
        double tokens = 0, all = 0;
        for (int64_t n = 0; n < kTokens; ++n) {
          if (has_mask && !context.mask_N[n].item<bool>()) continue;
          ++tokens;
          double sum = 0;
          for (int64_t e = 0; e < kExperts; ++e) sum += score[static_cast<size_t>(n * kExperts + e)];
          for (int64_t e = 0; e < kExperts && sum > 0; ++e)
            mean[static_cast<size_t>(e)] += score[static_cast<size_t>(n * kExperts + e)] / sum;
        }
        for (const auto a : asked) all += static_cast<double>(a);
        double wanted = 0;
        for (size_t e = 0; e < mean.size(); ++e) {
          const auto p = mean[e] / tokens, count = static_cast<double>(asked[e]), dE = static_cast<double>(kExperts);
          if (convention == "switch") wanted += dE * count / std::max(all, 1.0) * p;
          if (convention == "hf_pooled") wanted += dE * count / tokens * p;
          if (convention == "gshard") wanted += first[e] / tokens * p / dE;
        }
        CHECK(loss.raw == doctest::Approx(wanted).epsilon(1e-5));
        CHECK(loss.value.item<double>() == doctest::Approx(wanted * coefficient).epsilon(1e-5));
        ++compared, compared_biased += is_biased;
      }
    }
  }
  CHECK(compared > 20);
  CHECK(compared_biased > 0);
  CHECK(moved > 0);
}

TEST_CASE_FIXTURE(OneThread, "the composition that a router shows builds the same router") {
  for (const auto& v : everything()) {
    CAPTURE(v.what);
    const auto router = built(v.named);
    REQUIRE(router->composition());
    const auto shown = write_config(*router->composition());
    const auto again = built({.name = "stages", .fields = shown});
    CHECK(same_state(save(*router), save(*again)));
    const auto context = context_of(kTokens, 3, Phase::train);
    const auto a = router->route(inputs(), context), b = again->route(inputs(), context);
    CHECK(same_decision(a.decision, b.decision));
    CHECK(total(a.losses) == total(b.losses));
  }
}

TEST_CASE_FIXTURE(OneThread, "wrong shapes are refused by name") {
  for (const auto* e : routers()) {
    CAPTURE(e->card.name);
    const auto router = built({.name = std::string(e->card.name)});
    CHECK(complaint([&] { router->route(at::ones({2, 3, kWidth}), context_of(6)); }).find("[tokens, d_model]") !=
          std::string::npos);
    auto context = context_of(kTokens);
    context.mask_N = at::ones({kTokens + 1}, at::kBool);
    CHECK(complaint([&] { router->route(inputs(), context); }).find("mask") != std::string::npos);
    context = context_of(kTokens + 1);
    CHECK(complaint([&] { router->route(inputs(), context); }).find("token ids") != std::string::npos);
  }
}
