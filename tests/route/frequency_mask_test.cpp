// Masks by token frequency: which ids are rare, what they see, that nothing closed is ever chosen, and that a loaded
// router needs no text.
//
// N tokens, D model width, V vocabulary, E experts.
#include "collegium/kernels/flops.h"
#include "tests/support/gradcheck.h"
#include "tests/support/routing.h"

namespace {

using namespace collegium;
using namespace collegium::route;
using namespace collegium::test;

constexpr int64_t kWidth = 6, kExperts = 5, kVocabulary = 8;

// Counts 50, 30, 10, 4, 3, 2, 1, 0 in another order: at a share of 0.8 ids 3 and 6 are frequent.
Corpus text() {
  return {.vocabulary = kVocabulary, .count_V = at::tensor(std::vector<int64_t>{4, 0, 10, 50, 1, 2, 30, 3})};
}

std::unique_ptr<Router> masked(const Table& fields, const Corpus& corpus, uint64_t seed = 1,
                               const std::string& name = "mask_moe") {
  const Named named{.name = name, .fields = fields};
  auto made = find(routers(), named, "router")
                  .make(named, {.d_model = kWidth,
                                .n_experts = kExperts,
                                .random = Random(seed),
                                .options = at::kDouble,
                                .corpus = corpus});
  scale_parameters(*made, 8);
  return made;
}

Tensor open_of(Router& router) {
  for (const auto& p : parameters_of(router))
    if (p.name == "scorer.open") return *p.tensor;
  return {};
}

// `repeats` tokens of each id, with any hidden states.
Context all_ids(int64_t repeats) {
  auto context = context_of(kVocabulary * repeats);
  context.token_id_N = at::arange(kVocabulary).repeat({repeats});
  return context;
}

}  // namespace

TEST_CASE("frequent ids see every expert, rare ones as many as they may, drawn by the seed") {
  for (const int64_t visible : {1, 3}) {
    CAPTURE(visible);
    const auto router = masked(table({{"visible", visible}, {"k", 3}}), text());
    const auto open_VE = open_of(*router);
    CHECK((open_VE.scalar_type() == at::kByte));
    const auto seen = ints(open_VE.sum(-1));
    for (int64_t id = 0; id < kVocabulary; ++id)
      CHECK(seen[static_cast<size_t>(id)] == (id == 3 || id == 6 ? kExperts : visible));
    CHECK(same_bits(open_of(*masked(table({{"visible", visible}}), text())), open_VE));
    CHECK_FALSE(same_bits(open_of(*masked(table({{"visible", visible}}), text(), 2)), open_VE));
  }
  const auto share = [](double frequent) {
    return ints(open_of(*masked(table({{"frequent_share", frequent}}), text())).sum(-1).gt(1)).at(2);
  };
  CHECK(share(0.8) == 0);
  CHECK(share(0.85) == 1);
  CHECK(open_of(*masked(table({{"frequent_share", 0.0}}), text())).sum().item<int64_t>() == kVocabulary);
  CHECK(open_of(*masked(table({{"frequent_share", 1.0}}), text())).sum(-1).gt(1).sum().item<int64_t>() ==
        kVocabulary - 1);  // the id that never occurs is rare, whatever the share
}

TEST_CASE("rare ids spread over the experts") {
  auto corpus = some_corpus();
  const auto router = masked(table({{"frequent_share", 0.1}}), corpus);
  const auto open_VE = open_of(*router);
  const auto rare_E = open_VE.index({open_VE.sum(-1).eq(1)}).sum(0).to(at::kDouble);
  CHECK(rare_E.max().item<double>() < 1.3 * rare_E.mean().item<double>());
  CHECK(rare_E.min().item<double>() > 0.7 * rare_E.mean().item<double>());
}

TEST_CASE("tokens of a rare id always go to its experts, frequent ones go where their scores say") {
  for (const int64_t visible : {1, 2})
    for (const int64_t k : {1, 2, 4}) {
      CAPTURE(visible);
      CAPTURE(k);
      const auto router = masked(table({{"visible", visible}, {"k", k}}), text());
      const auto open_VE = open_of(*router);
      const int64_t repeats = 40;
      const auto context = all_ids(repeats);
      const auto x_ND = numbers(Random(3), {kVocabulary * repeats, kWidth}, -3, 3, at::kDouble);
      const auto r = router->route(x_ND, context);
      check_decision(r.decision, kVocabulary * repeats, kExperts);
      const auto token = ints(r.decision.token_R()), expert = ints(r.decision.expert_R());
      std::vector<int64_t> choices(kVocabulary);
      std::vector<std::set<int64_t>> experts(kVocabulary);
      for (size_t i = 0; i < token.size(); ++i) {
        const auto id = token[i] % kVocabulary;
        CHECK(open_VE[id][expert[i]].item<int64_t>() == 1);
        ++choices[static_cast<size_t>(id)];
        experts[static_cast<size_t>(id)].insert(expert[i]);
      }
      for (int64_t id = 0; id < kVocabulary; ++id) {
        const bool is_frequent = id == 3 || id == 6;
        // Fewer than k where fewer are open: a token asks for those alone.
        CHECK(choices[static_cast<size_t>(id)] == repeats * (is_frequent ? k : std::min(k, visible)));
        if (is_frequent) CHECK(experts[static_cast<size_t>(id)].size() > static_cast<size_t>(visible));
      }
      // Frequent tokens: the same as without a mask.
      const auto plain = masked(table({{"visible", visible}, {"k", k}}), {});
      load(*plain, {save(*router)[0]});  // the weight
      const auto s = plain->route(x_ND, context);
      const auto frequent = (context.token_id_N.eq(3) + context.token_id_N.eq(6)).nonzero().flatten();
      CHECK(difference(r.scores.score_NE.index_select(0, frequent), s.scores.score_NE.index_select(0, frequent)) <
            1e-12);
    }
}

TEST_CASE("tokens with one open expert do not pass through the scorer below, where that judges each token alone") {
  const int64_t repeats = 10, N = kVocabulary * repeats;
  const auto x_ND = numbers(Random(3), {N, kWidth}, -3, 3, at::kDouble);
  const auto context = all_ids(repeats);
  // Rows that the scorer's product was made of.
  const auto scored = [&](const Table& scorer, const Corpus& corpus = text()) {
    const auto router = masked(table({{"scorer", scorer}}), corpus, 1, "stages");
    const kernels::FlopCounter counter;
    router->route(x_ND, context);
    return counter.flops() / (2 * kWidth * kExperts);
  };
  const auto mask = [](std::initializer_list<std::pair<std::string, Value>> more) {
    auto out = table({{"name", "frequency_mask"}});
    for (const auto& [key, value] : more) out.set(key, value);
    return out;
  };
  CHECK(scored(mask({})) == 2 * repeats);  // ids 3 and 6
  CHECK(scored(mask({}), {}) == N);
  CHECK(scored(mask({{"frequent_share", 0.0}})) == 0);
  CHECK(scored(mask({{"visible", 2}})) == N);
  // A sigmoid score is that of the one open expert, and noise is drawn by a token's place.
  CHECK(scored(mask({{"of", table({{"name", "linear"}, {"activation", "sigmoid"}})}})) == N);
  CHECK(scored(mask({{"of", table({{"name", "linear"}, {"jitter", 0.1}})}})) == N);

  // What the others get does not change, and the one expert's score is what the softmax over it is.
  const auto router = masked(table({{"visible", 1}, {"k", 2}}), text());
  const auto s = router->route(x_ND, context).scores;
  const auto weight_ED = *parameters_of(*router)[0].tensor;
  const auto open_NE = s.open_NE;
  const auto expected_NE = at::linear(x_ND, weight_ED)
                               .masked_fill(open_NE.logical_not(), -std::numeric_limits<double>::infinity())
                               .softmax(-1);
  CHECK(difference(s.score_NE, expected_NE) < 1e-12);
  const auto only_N = open_NE.sum(1).eq(1);
  CHECK(s.score_NE.index({only_N}).max().item<double>() == 1);
  CHECK(s.logit_NE.index({only_N}).masked_select(open_NE.index({only_N})).eq(0).all().item<bool>());
  CHECK(s.logit_NE.masked_select(open_NE.logical_not()).eq(kClosedLogit).all().item<bool>());
}

TEST_CASE("masked scores are a softmax over the open logits; closed ones are zero, and lowest") {
  const auto router = masked(table({{"visible", 2}, {"k", 2}}), text());
  const auto x_ND = numbers(Random(3), {kVocabulary, kWidth}, -3, 3, at::kDouble);
  const auto s = router->route(x_ND, all_ids(1)).scores;
  const auto open_NE = open_of(*router).to(at::kBool);
  const auto weight_ED = *parameters_of(*router)[0].tensor;
  const auto logit_NE = at::linear(x_ND, weight_ED);
  const auto minus = -std::numeric_limits<double>::infinity();
  CHECK(difference(s.score_NE, logit_NE.masked_fill(open_NE.logical_not(), minus).softmax(-1)) < 1e-12);
  CHECK(s.score_NE.masked_select(open_NE.logical_not()).eq(0).all().item<bool>());
  CHECK(s.logit_NE.masked_select(open_NE.logical_not()).max().item<double>() < logit_NE.min().item<double>());
  CHECK(difference(s.logit_NE.masked_select(open_NE), logit_NE.masked_select(open_NE)) < 1e-12);
}

TEST_CASE("scores that vanish beside a closed expert leave the open ones even, with a finite gradient") {
  const auto router = masked(table({{"visible", 2}, {"k", 2}}), text());
  {
    const at::NoGradGuard no_grad;
    parameters_of(*router)[0].tensor->mul_(1e4);
  }
  auto x_ND = numbers(Random(3), {kVocabulary, kWidth}, -3, 3, at::kDouble).requires_grad_(true);
  const auto r = router->route(x_ND, all_ids(1));
  CHECK(r.scores.score_NE.sum(-1).sub(1).abs().max().item<double>() < 1e-9);
  r.decision.gate_R().square().sum().backward();
  CHECK(x_ND.grad().isfinite().all().item<bool>());
}

TEST_CASE("derivatives of masked scores") {
  const auto router = masked(table({{"visible", 2}, {"k", 2}}), text());
  scale_parameters(*router, 0.2);
  auto x_ND = numbers(Random(3), {kVocabulary, kWidth}, -1, 1, at::kDouble).requires_grad_(true);
  const auto report =
      check_gradients([&] { return Evaluated{router->route(x_ND, all_ids(1)).scores.score_NE, Tensor()}; },
                      {{"x", x_ND}, {"weight", *parameters_of(*router)[0].tensor}});
  CAPTURE(report.where);
  CHECK(report.worst < 1e-7);
  CHECK(report.largest > 1e-2);
}

TEST_CASE("a loaded router has its mask without having seen the text") {
  const auto trained = masked(table({{"k", 2}}), text(), 1);
  const auto loaded = masked(table({{"k", 2}}), {.vocabulary = kVocabulary}, 2);
  CHECK(open_of(*loaded).eq(1).all().item<bool>());
  const auto saved = save(*trained);
  CHECK(load(*loaded, saved) == saved.size());
  const auto x_ND = numbers(Random(3), {kVocabulary, kWidth}, -3, 3, at::kDouble);
  CHECK(same_decision(loaded->route(x_ND, all_ids(1)).decision, trained->route(x_ND, all_ids(1)).decision));
}

TEST_CASE("a selection bias does not open a closed expert") {
  const auto router = masked(table({{"scorer", table({{"name", "frequency_mask"}})},
                                    {"balancers", List{table({{"name", "loss_free_bias"}})}}}),
                             text(), 1, "stages");
  const auto open_VE = open_of(*router);
  const at::NoGradGuard no_grad;
  for (const auto& p : parameters_of(*router))
    if (p.name == "balancers.0.bias") p.tensor->copy_(at::tensor(std::vector<double>{100, -100, 50, 0, -50}));
  const auto d = router->route(numbers(Random(3), {kVocabulary, kWidth}, -3, 3, at::kDouble), all_ids(1)).decision;
  CHECK(open_VE.index({d.token_R(), d.expert_R()}).eq(1).all().item<bool>());
  CHECK(d.n_kept() == 2 * 2 + 6 * 1);
}

TEST_CASE("stages that may give a closed expert all the same are refused; so is an id beyond the vocabulary") {
  const auto composed = [](std::initializer_list<std::pair<std::string, Value>> more) {
    auto fields = table({{"scorer", table({{"name", "frequency_mask"}})}});
    for (const auto& [key, value] : more) fields.set(key, value);
    return complaint([&] { masked(fields, text(), 1, "stages"); });
  };
  CHECK(composed({}).empty());
  CHECK(composed({{"capacity", "factor"}}).empty());
  CHECK(composed({{"selector", "expert_choice"}}).find("closes experts") != std::string::npos);
  CHECK(composed({{"capacity", "reroute"}}).find("closes experts") != std::string::npos);
  const auto router = masked(table({}), text());
  auto context = all_ids(1);
  context.token_id_N = context.token_id_N + 1;
  const auto said = complaint([&] { router->route(at::ones({kVocabulary, kWidth}, at::kDouble), context); });
  CHECK(said.find("vocabulary of 8") != std::string::npos);
  CHECK(complaint([&] { masked(table({{"visible", 6}}), text()); }).find("more than the 5") != std::string::npos);
}
