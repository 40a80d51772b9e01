// Mixture of depths in a decoder: who passes by, what the others get, causality, derivatives, costs.
//
// B sequences, T tokens each, N = B T, D model width.
#include "collegium/kernels/norm.h"
#include "collegium/model/language_model.h"
#include "tests/support/gradcheck.h"
#include "tests/support/routing.h"

namespace {

using namespace collegium;
using namespace collegium::model;
using namespace collegium::test;
using route::Phase;

constexpr int64_t kVocabulary = 11, kB = 2, kT = 8, kD = 8;

Table depth(std::initializer_list<std::pair<std::string, Value>> more = {}) {
  auto fields = table({{"sparsity", 4.0}, {"first", 0}, {"every", 1}});
  for (const auto& [key, value] : more) fields.set(key, value);
  return fields;
}

std::unique_ptr<LanguageModel> made(const Table& depth_fields,
                                    std::initializer_list<std::pair<std::string, Value>> more = {}) {
  auto fields = table({{"d_model", kD},
                       {"n_layers", 1},
                       {"n_heads", 2},
                       {"init_std", 0.6},
                       {"moe_every", 0},
                       {"dense", table({{"name", "dense"}, {"d_hidden", 6}})},
                       {"depth", depth_fields}});
  for (const auto& [key, value] : more) fields.set(key, value);
  return find(language_models(), {.name = "decoder"}, "model")
      .make({.name = "decoder", .fields = fields},
            {.vocabulary = kVocabulary, .random = Random(1), .options = at::kDouble});
}

const Value& experts() {
  static const Value moe = table({{"name", "routed"}, {"n_experts", 3}, {"d_expert", 4}});
  return moe;
}

ModelContext context_of_phase(Phase phase = Phase::evaluate) {
  return {.phase = phase, .random = Random(5), .compute = at::kDouble};
}

Tensor tokens(int64_t B = kB, int64_t T = kT, uint64_t seed = 3) {
  return ids(Random(seed), B * T, kVocabulary).reshape({B, T});
}

Tensor hidden(LanguageModel& model, const Tensor& token_BT, Phase phase = Phase::evaluate) {
  const at::NoGradGuard no_grad;
  return model.forward(token_BT, context_of_phase(phase)).hidden_ND.view({token_BT.size(0), token_BT.size(1), kD});
}

Tensor parameter(LanguageModel& model, std::string_view name) {
  for (const auto& p : parameters_of(model))
    if (p.name == name) return *p.tensor;
  FAIL("no parameter " << name);
  return {};
}

// Which tokens a one-layer model worked for: the others are their own normalised embeddings. [B, T]
Tensor worked(LanguageModel& model, const Tensor& token_BT, Phase phase = Phase::evaluate) {
  const at::NoGradGuard no_grad;
  const auto x_BTD = at::embedding(parameter(model, "embedding"), token_BT);
  const auto passed = kernels::rms_norm(x_BTD.reshape({-1, kD}), at::ones({kD}, at::kDouble), 1e-6);
  return (hidden(model, token_BT, phase) - passed.view_as(x_BTD)).abs().amax(-1).gt(1e-12);
}

}  // namespace

TEST_CASE_FIXTURE(OneThread, "depth: a quarter of each sequence is worked for, the rest passes by untouched") {
  for (const auto& moe_every : {0, 1}) {
    const auto all = made(depth(), {{"moe_every", moe_every}, {"moe", experts()}});
    CHECK(ints(worked(*all, tokens(), Phase::train).sum(1)) == std::vector<int64_t>{2, 2});
    const auto causal = made(depth({{"evaluation", "so_far"}}), {{"moe_every", moe_every}, {"moe", experts()}});
    CHECK(ints(worked(*causal, tokens()).sum(1).le(2)) == std::vector<int64_t>{1, 1});
    CHECK(worked(*causal, tokens()).select(1, 0).all().item<bool>());
  }
}

TEST_CASE_FIXTURE(OneThread, "depth: layers are routed from `first` on, every so many") {
  const auto model = made(depth({{"first", 1}, {"every", 2}}), {{"n_layers", 4}});
  std::set<std::string> routers;
  for (const auto& p : parameters_of(*model))
    if (p.name.ends_with("depth.router")) routers.insert(p.name);
  CHECK(routers == std::set<std::string>{"layers.1.depth.router", "layers.3.depth.router"});
  for (const auto& p : parameters_of(*made(depth({{"sparsity", 1.0}}))))
    CHECK(p.name.find("depth") == std::string::npos);
}

TEST_CASE_FIXTURE(OneThread, "depth: everyone predicted and gates of a half is a plain layer with half its output") {
  const at::NoGradGuard no_grad;
  for (const auto* silent : {"layers.0.out", "layers.0.feed_forward.network.down"}) {
    const auto routed = made(depth()), plain = made(depth({{"sparsity", 1.0}}));
    parameter(*routed, "layers.0.depth.predictor_bias").fill_(100);
    parameter(*routed, "layers.0.depth.router").zero_();
    for (const auto& p : parameters_of(*plain)) {
      p.tensor->copy_(parameter(*routed, p.name));
      if (p.name == "layers.0.out" || p.name == "layers.0.feed_forward.network.down") p.tensor->mul_(0.5);
      if (p.name == silent) p.tensor->zero_();
    }
    parameter(*routed, silent).zero_();
    CHECK(difference(hidden(*routed, tokens()), hidden(*plain, tokens())) < 1e-12);
    CHECK(worked(*routed, tokens()).all().item<bool>());
  }
}

TEST_CASE_FIXTURE(OneThread, "depth: nobody predicted is a model without the layer") {
  for (const auto& moe_every : {0, 1}) {
    const auto model = made(depth(), {{"moe_every", moe_every}, {"moe", experts()}});
    {
      const at::NoGradGuard no_grad;
      parameter(*model, "layers.0.depth.predictor_bias").fill_(-100);
    }
    CHECK_FALSE(worked(*model, tokens()).any().item<bool>());
    CHECK(model->forward(tokens(), context_of_phase()).decisions.size() == static_cast<size_t>(moe_every));
  }
}

TEST_CASE_FIXTURE(OneThread, "depth: experts work for the taken tokens alone, and are told of all tokens of the text") {
  const auto moe = [](const char* router, bool limited) {
    auto with = table({{"name", router}});
    if (limited) with.set("capacity_factor", 0.5);
    return Value(table({{"name", "routed"}, {"n_experts", 3}, {"d_expert", 4}, {"n_shared", 1}, {"router", with}}));
  };
  for (const bool limited : {false, true}) {
    const auto model =
        made(depth({{"evaluation", "so_far"}, {"sparsity", 2.0}}), {{"moe_every", 1}, {"moe", moe("top_k", limited)}});
    const auto taken_BT = worked(*model, tokens());
    auto context = context_of_phase();
    context.record = true;
    const auto out = model->forward(tokens(), context);
    const auto& decision = out.decisions.at(0);
    CHECK(decision.n_tokens() == kB * kT);
    const auto taken_N = taken_BT.reshape({-1});
    CHECK(taken_N.index_select(0, decision.token_R()).all().item<bool>());
    CHECK(taken_N.index_select(0, decision.dropped().token_Q).all().item<bool>());
    CHECK((decision.n_dropped() > 0) == limited);
    const auto asked = at::bincount(at::cat({decision.token_R(), decision.dropped().token_Q}), {}, kB * kT);
    CHECK(at::equal(asked, 2 * taken_N.to(at::kLong)));
    const auto& record = out.records.at(0);
    CHECK(at::equal(record.input_ND.abs().amax(1).gt(0), taken_N));
    CHECK(record.score_NE.size(0) == kB * kT);
  }
  // What a router leaves for the next one stays with each token, also where it passes by.
  const auto chain = made(depth({{"evaluation", "so_far"}, {"sparsity", 2.0}}),
                          {{"n_layers", 3}, {"moe_every", 1}, {"moe", moe("recurrent", false)}});
  const auto token_BT = tokens();
  auto other = token_BT.clone();
  other[0].slice(0, 5).copy_(ids(Random(70), kT - 5, kVocabulary));
  const auto before = hidden(*chain, token_BT), after = hidden(*chain, other);
  CHECK(difference(after[0].slice(0, 0, 5), before[0].slice(0, 0, 5)) < 1e-12);
  CHECK(difference(after[1], before[1]) < 1e-12);
  CHECK(difference(after[0].slice(0, 5), before[0].slice(0, 5)) > 1e-4);
}

TEST_CASE_FIXTURE(OneThread, "depth: the taken tokens keep their places in the text") {
  // Attention of a shorter sequence is that of the whole one in which the others are masked.
  const at::NoGradGuard no_grad;
  const auto routed = made(depth({{"evaluation", "so_far"}, {"sparsity", 2.0}})),
             plain = made(depth({{"sparsity", 1.0}}));
  const auto token_BT = tokens();
  const auto taken_BT = worked(*routed, token_BT);
  for (const auto& p : parameters_of(*plain)) p.tensor->copy_(parameter(*routed, p.name));
  // Gates of one half, and no feed-forward, so that outputs can be compared.
  parameter(*routed, "layers.0.depth.router").zero_();
  const auto taken_now_BT = worked(*routed, token_BT);
  for (auto* model : {routed.get(), plain.get()}) parameter(*model, "layers.0.feed_forward.network.down").zero_();
  parameter(*plain, "layers.0.out").mul_(0.5);
  auto context = context_of_phase();
  context.mask_BT = taken_now_BT;
  const auto masked = plain->forward(token_BT, context).hidden_ND.view({kB, kT, kD});
  const auto got = hidden(*routed, token_BT);
  CHECK(difference(got.index({taken_now_BT}), masked.index({taken_now_BT})) < 1e-12);
  CHECK(taken_BT.sum().item<int64_t>() > 0);
}

TEST_CASE_FIXTURE(OneThread, "depth: evaluation looks at no later token, unless it is told to") {
  for (const auto* choice : {"so_far", "predicted", "sequence"}) {
    CAPTURE(choice);
    const bool is_causal = std::string(choice) != "sequence";
    const auto model = made(depth({{"evaluation", choice}}), {{"n_layers", 2}, {"allow_noncausal", !is_causal}});
    CHECK(model->facts(kT).is_causal == is_causal);
    CHECK(model->facts(kT).reads_other_tokens == !is_causal);
    double worst = 0;
    for (uint64_t seed = 20; seed < 40; ++seed) {
      auto other = tokens();
      other[0].slice(0, 5).copy_(ids(Random(seed), kT - 5, kVocabulary));
      const auto before = hidden(*model, tokens()), after = hidden(*model, other);
      CHECK(difference(after[1], before[1]) < 1e-12);
      worst = std::max(worst, difference(after[0].slice(0, 0, 5), before[0].slice(0, 0, 5)));
    }
    CHECK((worst < 1e-12) == is_causal);
  }
  CHECK(complaint([] { made(depth({{"evaluation", "sequence"}})); }).find("lets a token depend on later ones") !=
        std::string::npos);
}

TEST_CASE_FIXTURE(OneThread, "depth: decoding with a cache equals the whole pass, whatever the pieces") {
  const at::NoGradGuard no_grad;
  const int64_t T = 24;
  for (const auto* choice : {"so_far", "predicted"})
    for (const Value& attention : {Value("full"), Value(table({{"name", "mosa"}, {"n_sparse", 3}, {"sparsity", 3.0}}))})
      for (const auto& moe_every : {0, 1}) {
        CAPTURE(choice);
        const auto model =
            made(depth({{"evaluation", choice}, {"sparsity", 3.0}, {"every", 2}}),
                 {{"n_layers", 4}, {"attention", attention}, {"moe_every", moe_every}, {"moe", experts()}});
        const auto token_BT = tokens(1, T);
        const auto whole = hidden(*model, token_BT);
        for (const int64_t piece : {1, 5, 24}) {
          CAPTURE(piece);
          KeyValueCache cache;
          std::vector<Tensor> parts;
          for (int64_t past = 0; past < T; past += piece) {
            const auto part = token_BT.slice(1, past, std::min(T, past + piece));
            parts.push_back(model->forward(part, context_of_phase(), &cache).hidden_ND);
          }
          CHECK(difference(at::cat(parts), whole[0]) < 1e-12);
          const auto taken = cache.passed[0].count_1B.item<int64_t>();
          if (taken > 0) CHECK(cache.layers[0].tensors[0].size(2) == taken);
          CHECK(cache.layers[1].tensors[0].size(2) == T);
          if (std::string(choice) == "so_far") CHECK(taken <= T / 3);
        }
      }
  KeyValueCache cache;
  CHECK(complaint([&] {
          made(depth())->forward(tokens(), context_of_phase(), &cache);
        }).find("a cache is for one sequence") != std::string::npos);
}

TEST_CASE_FIXTURE(OneThread, "depth: padding at the end changes neither outputs nor losses") {
  for (const auto& moe_every : {0, 1}) {
    const auto model = made(depth(), {{"moe_every", moe_every}, {"moe", experts()}});
    auto context = context_of_phase(Phase::train), padded = context;
    padded.mask_BT = at::ones({kB, kT + 3}, at::kBool);
    padded.mask_BT.slice(1, kT).fill_(false);
    const auto a = model->forward(tokens(), context);
    const auto b = model->forward(at::cat({tokens(), tokens(kB, 3, 8)}, 1), padded);
    CHECK(difference(b.hidden_ND.view({kB, kT + 3, kD}).slice(1, 0, kT), a.hidden_ND.view({kB, kT, kD})) < 1e-12);
    REQUIRE(a.losses.size() == b.losses.size());
    for (size_t i = 0; i < a.losses.size(); ++i)
      CHECK(b.losses[i].raw == doctest::Approx(a.losses[i].raw).epsilon(1e-12));
  }
}

TEST_CASE_FIXTURE(OneThread, "depth: the predictor learns who is taken, and nothing else learns from it") {
  const auto model = made(depth({{"predictor", 1.0}}));
  const auto out = model->forward(tokens(), context_of_phase(Phase::train));
  REQUIRE(out.losses.size() == 1);
  CHECK(out.losses[0].name == "layer 0: depth_predictor");
  CHECK(out.losses[0].value.item<double>() == doctest::Approx(out.losses[0].raw));
  out.losses[0].value.backward();
  for (const auto& p : parameters_of(*model)) {
    const bool is_predictor = p.name.find("predictor") != std::string::npos;
    CHECK((p.tensor->grad().defined() && p.tensor->grad().abs().max().item<double>() > 0) == is_predictor);
  }
  CHECK(made(depth({{"evaluation", "so_far"}}))->forward(tokens(), context_of_phase(Phase::train)).losses.empty());
}

TEST_CASE_FIXTURE(OneThread, "depth: experts see the taken tokens only, and decisions are about all") {
  const auto model = made(depth(), {{"moe_every", 1}, {"moe", experts()}});
  auto context = context_of_phase(Phase::train);
  context.record = true;
  const auto out = model->forward(tokens(), context);
  REQUIRE(out.decisions.size() == 1);
  check_decision(out.decisions[0], kB * kT, 3);
  const auto taken = worked(*model, tokens(), Phase::train).reshape({-1}).nonzero().flatten();
  CHECK(std::get<0>(at::_unique(out.decisions[0].token_R())).equal(taken));
  CHECK(out.records.at(0).input_ND.size(0) == kB * kT);
}

TEST_CASE_FIXTURE(OneThread, "depth: derivatives from end to end") {
  for (const auto& moe_every : {0, 1}) {
    const auto model =
        made(depth({{"predictor", 0.5}}), {{"n_layers", 2}, {"moe_every", moe_every}, {"moe", experts()}});
    std::vector<Variable> variables;
    for (const auto& p : parameters_of(*model))
      if (p.trained()) variables.push_back({p.name, *p.tensor});
    const auto report = check_gradients(
        [&] {
          const auto out = model->forward(tokens(1, 6), context_of_phase(Phase::recompute));
          // The predictor's own loss stops before the model, so it is left out here.
          return Evaluated{out.hidden_ND, {}};
        },
        variables, 1e-6);
    CAPTURE(report.where);
    CHECK(report.worst < 1e-6);
    CHECK(report.largest > 1e-2);
  }
}

TEST_CASE_FIXTURE(OneThread, "depth: costs are those of the share of tokens that are taken") {
  const auto plain = made(depth({{"sparsity", 1.0}}))->facts(64), half = made(depth({{"sparsity", 2.0}}))->facts(64);
  const double D = kD, V = kVocabulary, projections = 4 * D * D, feed = 3 * 6 * D, router = D + D * 2 + 2 + 1;
  CHECK(plain.flops_per_token == 2 * V * D + 2 * projections + 2 * D * 64 + 2 * feed);
  CHECK(half.flops_per_token == 2 * V * D + 0.5 * (2 * projections + 2 * D * 32 + 2 * feed) + 2 * router);
  CHECK(half.parameters_active == V * D + 3 * D + 0.5 * (projections + feed) + router);
  CHECK(half.cache_bytes_per_token == plain.cache_bytes_per_token / 2);
  CHECK(half.parameters_total == plain.parameters_total + router);
}

TEST_CASE("depth: what does not fit is refused") {
  const auto said = [](std::initializer_list<std::pair<std::string, Value>> more) {
    return complaint([&] { made(depth(), more); });
  };
  const Value reads = table({{"name", "routed"}, {"n_experts", 3}, {"d_expert", 4}, {"router", "attention_aware"}});
  CHECK(said({{"moe_every", 1}, {"moe", reads}}).find("mixture of depths") != std::string::npos);
  CHECK(said({{"attention", table({{"name", "moa"}, {"n_experts", 3}})}}).find("mixture of depths") !=
        std::string::npos);
}

TEST_CASE_FIXTURE(OneThread, "depth: hidden units are those of the taken tokens, and zeros where one passes by") {
  const at::NoGradGuard no_grad;
  for (const auto& moe_every : {0, 1}) {
    CAPTURE(moe_every);
    const auto model = made(depth({{"evaluation", "so_far"}}), {{"moe_every", moe_every}, {"moe", experts()}});
    auto context = context_of_phase();
    context.units_of = 0;
    const auto units_NF = model->forward(tokens(), context).units_NF;
    REQUIRE(units_NF.defined());
    const auto taken_N = worked(*model, tokens()).flatten();
    CHECK(at::equal(units_NF.abs().amax(1).gt(0), taken_N));
    CHECK(taken_N.any().item<bool>());
    CHECK_FALSE(taken_N.all().item<bool>());
    // Nobody is taken: all zeros, as many units.
    const auto none = made(depth(), {{"moe_every", moe_every}, {"moe", experts()}});
    parameter(*none, "layers.0.depth.predictor_bias").fill_(-100);
    const auto none_NF = none->forward(tokens(), context).units_NF;
    REQUIRE(none_NF.defined());
    CHECK(none_NF.sizes() == units_NF.sizes());
    CHECK(none_NF.count_nonzero().item<int64_t>() == 0);
  }
}
