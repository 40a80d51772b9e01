// The decoder: causal, the same with a cache as without, grouped-query attention by its definition, derivatives from
// end to end, honest facts.
//
// B sequences, T tokens each, V vocabulary, D model width.
#include "collegium/kernels/flops.h"
#include "collegium/model/feed_forward_timer.h"
#include "collegium/model/language_model.h"
#include "tests/support/gradcheck.h"
#include "tests/support/routing.h"

namespace {

using namespace collegium;
using namespace collegium::model;
using namespace collegium::test;

constexpr int64_t kVocabulary = 11;

Table tiny(std::initializer_list<std::pair<std::string, Value>> more = {}) {
  auto fields = table({{"d_model", 8},
                       {"n_layers", 2},
                       {"n_heads", 2},
                       {"init_std", 0.3},
                       {"dense", table({{"name", "dense"}, {"d_hidden", 6}})},
                       {"moe", table({{"name", "routed"}, {"n_experts", 3}, {"d_expert", 4}})}});
  for (const auto& [key, value] : more) fields.set(key, value);
  return fields;
}

Named decoder(const Table& fields) {
  return {.name = "decoder", .fields = fields};
}

std::unique_ptr<LanguageModel> make_model(const Named& named, at::ScalarType type = at::kDouble, uint64_t seed = 1) {
  return find(language_models(), named, "model")
      .make(named, {.vocabulary = kVocabulary, .random = Random(seed), .options = type});
}

ModelContext context_of_type(at::ScalarType type, route::Phase phase = route::Phase::evaluate) {
  return {.phase = phase, .random = Random(5), .compute = type};
}

Tensor tokens(int64_t B, int64_t T, uint64_t seed = 3) {
  return ids(Random(seed), B * T, kVocabulary).reshape({B, T});
}

Tensor logits_of(LanguageModel& model, const Tensor& token_BT, at::ScalarType type = at::kDouble) {
  const at::NoGradGuard no_grad;
  return model.logits(model.forward(token_BT, context_of_type(type)).hidden_ND)
      .reshape({token_BT.size(0), token_BT.size(1), kVocabulary});
}

Tensor* find_parameter(LanguageModel& model, std::string_view name) {
  for (const auto& p : parameters_of(model))
    if (p.name == name) return p.tensor;
  return nullptr;
}

// Settings that the general checks run over.
std::vector<std::pair<std::string, Named>> variants() {
  return {
      {"default feed-forwards", decoder(tiny())},
      {"two query heads a key", decoder(tiny({{"n_heads", 4}, {"n_kv_heads", 2}}))},
      {"one key for all", decoder(tiny({{"n_heads", 4}, {"n_kv_heads", 1}}))},
      {"own output layer", decoder(tiny({{"tie_embeddings", false}}))},
      {"dense first", decoder(tiny({{"moe_first", 1}}))},
      {"no experts", decoder(tiny({{"moe_every", 0}}))},
      {"shared experts", decoder(tiny({{"share_experts", 2}}))},
      {"layers that differ", decoder(tiny({{"override", table({{"1", table({{"n_experts", 2}})}})}}))},
      {"hash",
       decoder(tiny({{"moe", table({{"name", "routed"}, {"n_experts", 3}, {"d_expert", 4}, {"router", "hash"}})}}))}};
}

}  // namespace

TEST_CASE("decoding with a cache equals the whole pass, whatever the pieces") {
  const Threads one(1);
  for (const auto& [what, named] : variants())
    for (const auto type : {at::kDouble, at::kFloat}) {
      CAPTURE(what);
      CAPTURE(std::string(at::toString(type)));
      const auto model = make_model(named, type);
      const auto token_BT = tokens(2, 9);
      const auto whole = logits_of(*model, token_BT, type);
      for (const auto& pieces :
           std::vector<std::vector<int64_t>>{{1, 1, 1, 1, 1, 1, 1, 1, 1}, {4, 1, 1, 3}, {2, 7}, {9}}) {
        const at::NoGradGuard no_grad;
        KeyValueCache cache;
        std::vector<Tensor> parts;
        int64_t from = 0;
        for (const auto n : pieces) {
          const auto out = model->forward(token_BT.slice(1, from, from + n), context_of_type(type), &cache);
          parts.push_back(model->logits(out.hidden_ND).reshape({2, n, kVocabulary}));
          from += n;
          CHECK(cache.length == from);
        }
        CHECK(difference(at::cat(parts, 1), whole) < (type == at::kDouble ? 1e-12 : 1e-5));
      }
    }
}

TEST_CASE("later tokens and other sequences change nothing") {
  for (const auto& [what, named] : variants()) {
    CAPTURE(what);
    const auto model = make_model(named);
    const auto token_BT = tokens(2, 6);
    const auto before = logits_of(*model, token_BT);
    for (const int64_t cut : {1, 3, 5}) {
      auto other = token_BT.clone();
      other[0].slice(0, cut).copy_(ids(Random(70), 6 - cut, kVocabulary));
      const auto after = logits_of(*model, other);
      CHECK(difference(after[0].slice(0, 0, cut), before[0].slice(0, 0, cut)) < 1e-12);
      CHECK(difference(after[1], before[1]) < 1e-12);
      CHECK(difference(after[0].slice(0, cut), before[0].slice(0, cut)) > 1e-4);
    }
  }
}

TEST_CASE("padding at the end changes neither outputs nor losses") {
  const auto model = make_model(decoder(tiny()));
  const auto short_BT = tokens(2, 5);
  const auto padded_BT = at::cat({at::cat({short_BT, at::zeros({2, 2}, at::kLong)}, 1), at::zeros({1, 7}, at::kLong)});
  auto context = context_of_type(at::kDouble, route::Phase::train), padded_context = context;
  padded_context.mask_BT = at::zeros({3, 7}, at::kBool);
  padded_context.mask_BT.slice(0, 0, 2).slice(1, 0, 5).fill_(true);
  const auto a = model->forward(short_BT, context), b = model->forward(padded_BT, padded_context);
  CHECK(difference(b.hidden_ND.reshape({3, 7, 8}).slice(0, 0, 2).slice(1, 0, 5), a.hidden_ND.reshape({2, 5, 8})) <
        1e-12);
  REQUIRE(a.losses.size() == b.losses.size());
  CHECK(a.losses.size() == 4);
  for (size_t i = 0; i < a.losses.size(); ++i) {
    CHECK(a.losses[i].name == b.losses[i].name);
    CHECK(b.losses[i].raw == doctest::Approx(a.losses[i].raw).epsilon(1e-12));
  }
  CHECK(a.losses[0].name == "layer 0: balance_loss");
  for (size_t i = 0; i < a.decisions.size(); ++i) CHECK(at::equal(a.decisions[i].asked_E(), b.decisions[i].asked_E()));
}

TEST_CASE("grouped-query attention is attention with repeated key and value heads") {
  const int64_t H = 4, d = 2, D = 8;
  for (const int64_t G : {1, 2}) {
    CAPTURE(G);
    const auto grouped = make_model(decoder(tiny({{"n_heads", H}, {"n_kv_heads", G}})));
    const auto full = make_model(decoder(tiny({{"n_heads", H}})));
    const at::NoGradGuard no_grad;
    for (const auto& p : parameters_of(*grouped)) {
      auto* to = find_parameter(*full, p.name);
      REQUIRE(to);
      if (p.name.find("qkv") == std::string::npos) {
        to->copy_(*p.tensor);
        continue;
      }
      const auto heads = p.tensor->view({H + 2 * G, d, D});
      to->copy_(at::cat({heads.slice(0, 0, H), heads.slice(0, H, H + G).repeat_interleave(H / G, 0),
                         heads.slice(0, H + G).repeat_interleave(H / G, 0)})
                    .reshape({3 * H * d, D}));
    }
    CHECK(difference(logits_of(*grouped, tokens(2, 7)), logits_of(*full, tokens(2, 7))) < 1e-12);
  }
}

TEST_CASE("one layer by hand: norm, attention, norm, feed-forward") {
  const int64_t T = 5, D = 4, H = 2, d = 2;
  const auto model = make_model(decoder(table({{"d_model", D},
                                               {"n_layers", 1},
                                               {"n_heads", H},
                                               {"init_std", 0.5},
                                               {"rope_theta", 50.0},
                                               {"norm_epsilon", 0.01},
                                               {"moe_every", 0},
                                               {"dense", table({{"name", "dense"}, {"d_hidden", 3}})}})));
  const auto token_BT = tokens(1, T);
  const at::NoGradGuard no_grad;
  find_parameter(*model, "layers.0.attention_norm")->copy_(numbers(Random(1), {D}, 0.5, 1.5, at::kDouble));
  find_parameter(*model, "layers.0.feed_forward_norm")->copy_(numbers(Random(2), {D}, 0.5, 1.5, at::kDouble));
  find_parameter(*model, "final_norm")->copy_(numbers(Random(3), {D}, 0.5, 1.5, at::kDouble));
  const auto weight = [&](const char* name) { return *find_parameter(*model, name); };
  const auto norm = [](const Tensor& x, const Tensor& gain) {
    return x / (x.square().mean(-1, true) + 0.01).sqrt() * gain;
  };

  const auto embedding = weight("embedding");
  auto x = embedding.index_select(0, token_BT[0]);
  const auto qkv =
      at::matmul(norm(x, weight("layers.0.attention_norm")), weight("layers.0.qkv").t()).view({T, 3 * H, d});
  const auto turned = [&](int64_t t, int64_t head) {
    const double angle = static_cast<double>(t);  // a head of width 2 has one pair, turning by one radian a token
    const auto a = qkv[t][head][0].item<double>(), b = qkv[t][head][1].item<double>();
    return at::tensor(
        std::vector<double>{a * std::cos(angle) - b * std::sin(angle), b * std::cos(angle) + a * std::sin(angle)});
  };
  auto mixed = at::zeros({T, H * d}, at::kDouble);
  for (int64_t h = 0; h < H; ++h)
    for (int64_t t = 0; t < T; ++t) {
      std::vector<double> score;
      double sum = 0;
      for (int64_t s = 0; s <= t; ++s)
        score.push_back(std::exp((turned(t, h) * turned(s, H + h)).sum().item<double>() / std::sqrt(2.0))),
            sum += score.back();
      for (int64_t s = 0; s <= t; ++s)
        mixed[t].slice(0, h * d, h * d + d) += score[static_cast<size_t>(s)] / sum * qkv[s][2 * H + h];
    }
  x = x + at::matmul(mixed, weight("layers.0.out").t());
  const auto halves =
      at::matmul(norm(x, weight("layers.0.feed_forward_norm")), weight("layers.0.feed_forward.network.gate_up")[0].t())
          .chunk(2, -1);
  x = x + at::matmul(at::silu(halves[0]) * halves[1], weight("layers.0.feed_forward.network.down")[0].t());
  const auto wanted = at::matmul(norm(x, weight("final_norm")), embedding.t());
  CHECK(difference(logits_of(*model, token_BT)[0], wanted) < 1e-12);
}

TEST_CASE("derivatives of the whole model, losses of its routers included") {
  const Threads one(1);
  for (const bool is_tied : {true, false}) {
    CAPTURE(is_tied);
    const auto model = make_model(decoder(
        table({{"d_model", 4},
               {"n_layers", 2},
               {"n_heads", 2},
               {"n_kv_heads", 1},
               {"init_std", 0.5},
               {"tie_embeddings", is_tied},
               {"moe_first", 1},
               {"dense", table({{"name", "dense"}, {"d_hidden", 3}})},
               {"moe", table({{"name", "routed"},
                              {"n_experts", 3},
                              {"d_expert", 2},
                              {"n_shared", 1},
                              {"router", table({{"name", "top_k"}, {"balance_loss", 1.0}, {"z_loss", 1.0}})}})}})));
    for (const auto& p : parameters_of(*model))
      if (p.name.find("router") != std::string::npos) {
        const at::NoGradGuard no_grad;
        p.tensor->mul_(5);
      }
    const auto token_BT = tokens(2, 4), target_N = tokens(1, 8, 9).reshape({-1});
    std::vector<Variable> variables;
    for (const auto& p : parameters_of(*model)) variables.push_back({p.name, *p.tensor});
    const auto report = check_gradients(
        [&] {
          const auto out = model->forward(token_BT, context_of_type(at::kDouble, route::Phase::recompute));
          std::vector<Tensor> values = {token_losses(*model, out.hidden_ND, target_N)};
          for (const auto& l : out.losses) values.push_back(l.value.reshape({1}));
          return Evaluated{at::cat(values), choice_of(out.decisions.at(0))};
        },
        variables);
    CAPTURE(report.where);
    CHECK(report.is_smooth);
    CHECK(report.worst < 1e-6);
    CHECK(report.largest > 1e-2);
    CHECK(report.n_compared > 1000);
  }
}

TEST_CASE("facts agree with what collect shows") {
  for (const auto& [what, named] : variants()) {
    CAPTURE(what);
    const auto model = make_model(named);
    double total = 0;
    std::set<std::string> names;
    for (const auto& p : parameters_of(*model)) {
      CHECK_MESSAGE(names.insert(p.name).second, p.name);
      if (p.trained()) total += static_cast<double>(p.tensor->numel());
    }
    const auto facts = model->facts(16);
    CHECK(facts.parameters_total == total);
    CHECK(facts.parameters_active <= total);
    CHECK(facts.parameters_active > 0);
    CHECK(facts.flops_per_token > 0);
    CHECK(facts.activation_bytes_per_token > 0);
    CHECK(facts.is_causal);
    CHECK(facts.n_layers == 2);
    CHECK(facts.moe_layers.size() == facts.n_experts.size());
    const auto out = model->forward(tokens(1, 3), context_of_type(at::kDouble));
    CHECK(out.decisions.size() == facts.moe_layers.size());
  }
  // Without experts every parameter is met, but for the untied embedding's other rows.
  const auto dense = make_model(decoder(tiny({{"moe_every", 0}})))->facts(16);
  CHECK(dense.parameters_active == dense.parameters_total);
  const auto untied = make_model(decoder(tiny({{"moe_every", 0}, {"tie_embeddings", false}})))->facts(16);
  CHECK(untied.parameters_active == untied.parameters_total - (kVocabulary - 1) * 8);
  CHECK(untied.parameters_total == dense.parameters_total + kVocabulary * 8);
  CHECK(make_model(decoder(tiny({{"n_layers", 5}, {"moe_first", 1}, {"moe_every", 2}})))->facts(16).moe_layers ==
        std::vector<int64_t>{1, 3});
  CHECK(make_model(decoder(tiny()))->facts(32).flops_per_token >
        make_model(decoder(tiny()))->facts(16).flops_per_token);
}

TEST_CASE("the work a model says it does is the work it does, within a twentieth") {
  constexpr int64_t T = 64;
  auto all = variants();
  const auto depth = table({{"sparsity", 8.0}, {"first", 1}, {"every", 2}});
  const auto shared = table({{"name", "routed"}, {"n_experts", 3}, {"d_expert", 4}, {"n_shared", 2}});
  const auto moa = table({{"name", "moa"}, {"n_experts", 4}, {"router", table({{"name", "top_k"}, {"k", 2}})}});
  const auto soft = table({{"name", "soft"}, {"n_experts", 3}, {"d_expert", 4}, {"slots", 2}});
  all.push_back({"depths", decoder(tiny({{"n_layers", 4}, {"moe_every", 0}, {"depth", depth}}))});
  all.push_back({"depths with experts", decoder(tiny({{"n_layers", 4}, {"moe", shared}, {"depth", depth}}))});
  all.push_back({"chosen heads", decoder(tiny({{"attention", moa}}))});
  all.push_back({"heads that choose", decoder(tiny({{"attention", table({{"name", "mosa"}, {"sparsity", 4.0}})}}))});
  all.push_back({"selective heads", decoder(tiny({{"n_heads", 4}, {"attention", "selective"}}))});
  all.push_back({"slots", decoder(tiny({{"moe", soft}, {"allow_noncausal", true}}))});
  for (const auto& [what, named] : all) {
    CAPTURE(what);
    const at::NoGradGuard no_grad;
    const auto model = make_model(named, at::kFloat);
    const kernels::FlopCounter counter;
    model->logits(model->forward(tokens(4, T), context_of_type(at::kFloat, route::Phase::train)).hidden_ND);
    CHECK(model->facts(T).flops_per_token == doctest::Approx(counter.flops() / (4 * T)).epsilon(0.05));
  }
}

TEST_CASE("a training step is three times the work of a pass forward") {
  constexpr int64_t B = 4, T = 16, N = B * T;
  const auto model = make_model(decoder(tiny()), at::kFloat);
  const auto facts = model->facts(T);
  const kernels::FlopCounter counter;
  const auto out = model->forward(tokens(B, T), context_of_type(at::kFloat, route::Phase::train));
  auto loss = token_losses(*model, out.hidden_ND, tokens(1, N, 9).reshape({-1})).mean();
  for (const auto& term : out.losses) loss = loss + term.value;
  const auto forward = counter.flops();
  loss.backward();
  // The backward pass of fused attention is not counted: twice the scores and the mixing of two layers of width 8.
  const auto attention = 2.0 * (2 * 2 * 8 * T) * N;
  CHECK(counter.flops() > 2 * forward);
  CHECK(3 * facts.flops_per_token * N == doctest::Approx(counter.flops() + attention).epsilon(0.05));
}

TEST_CASE("what each layer costs adds up to what the model costs") {
  const auto check_sums = [](const ModelFacts& facts) {
    LayerCost sum;
    for (const auto& cost : facts.costs) {
      sum.parameters_total += cost.parameters_total, sum.parameters_active += cost.parameters_active;
      sum.flops_per_token += cost.flops_per_token, sum.cache_bytes_per_token += cost.cache_bytes_per_token;
    }
    CHECK(sum.parameters_total == facts.parameters_total);
    CHECK(sum.parameters_active == doctest::Approx(facts.parameters_active).epsilon(1e-12));
    CHECK(sum.flops_per_token == doctest::Approx(facts.flops_per_token).epsilon(1e-12));
    CHECK(sum.cache_bytes_per_token == doctest::Approx(facts.cache_bytes_per_token).epsilon(1e-12));
  };
  for (const auto& [what, named] : variants()) {
    CAPTURE(what);
    const auto facts = make_model(named)->facts(16);
    check_sums(facts);
    REQUIRE(facts.costs.size() == 3);
    for (int64_t i = 0; i < 2; ++i) CHECK(facts.costs[static_cast<size_t>(i)].layer == i);
    CHECK(facts.costs.back().layer == -1);
    CHECK(facts.costs.back().flops_per_token == 2 * kVocabulary * 8);
  }
  // A pyramid: only the number of experts differs, which the router sees.
  const auto pyramid =
      make_model(decoder(tiny({{"override", table({{"1", table({{"n_experts", 6}})}})}})))->facts(16).costs;
  CHECK(pyramid[0].n_experts == 3);
  CHECK(pyramid[1].n_experts == 6);
  CHECK(pyramid[1].parameters_total - pyramid[0].parameters_total == 3 * (3 * 8 * 4 + 8));  // networks and scores
  CHECK(pyramid[1].flops_per_token - pyramid[0].flops_per_token == 2 * 3 * 8);
  // A layer for a quarter of the tokens.
  const auto depth = table({{"sparsity", 4.0}, {"first", 1}, {"evaluation", "so_far"}});
  const auto depths = make_model(decoder(tiny({{"moe_every", 0}, {"depth", depth}})))->facts(16);
  check_sums(depths);
  CHECK(depths.costs[0].share == 1);
  CHECK(depths.costs[1].share == 0.25);
  CHECK(depths.costs[1].cache_bytes_per_token == depths.costs[0].cache_bytes_per_token / 4 + 4);  // and its score
  CHECK(depths.costs[1].flops_per_token < depths.costs[0].flops_per_token / 3);
}

TEST_CASE("a recorded pass has what every layer states, dense ones too") {
  const auto model = make_model(decoder(tiny({{"moe_first", 1}})));
  auto context = context_of_type(at::kDouble);
  CHECK(model->forward(tokens(2, 5), context).statistics.empty());
  context.record = true;
  const auto out = model->forward(tokens(2, 5), context);
  REQUIRE(out.statistics.size() == 2);
  CHECK(out.records.size() == 1);
  CHECK(out.statistics[0][0].name == "active_units");
  CHECK(out.statistics[0][0].weight == 10 * 6);      // tokens by hidden units
  CHECK(out.statistics[1][0].weight == 2 * 10 * 4);  // of two experts
}

TEST_CASE("tied embeddings are one tensor that gets both gradients") {
  const auto tied = make_model(decoder(tiny({{"moe_every", 0}})));
  CHECK_FALSE(find_parameter(*tied, "output"));
  const auto untied = make_model(decoder(tiny({{"moe_every", 0}, {"tie_embeddings", false}})));
  {
    const at::NoGradGuard no_grad;
    for (const auto& p : parameters_of(*tied)) find_parameter(*untied, p.name)->copy_(*p.tensor);
    find_parameter(*untied, "output")->copy_(*find_parameter(*tied, "embedding"));
  }
  CHECK(same_bits(logits_of(*tied, tokens(2, 4)), logits_of(*untied, tokens(2, 4))));
  for (auto* model : {tied.get(), untied.get()})
    token_losses(*model, model->forward(tokens(2, 4), context_of_type(at::kDouble)).hidden_ND,
                 tokens(1, 8, 9).reshape({-1}))
        .sum()
        .backward();
  const auto both = find_parameter(*untied, "embedding")->grad() + find_parameter(*untied, "output")->grad();
  CHECK(difference(find_parameter(*tied, "embedding")->grad(), both) < 1e-12);
}

TEST_CASE("compute in bfloat16 is near float32, and routers stay in float32") {
  const auto model = make_model(decoder(tiny()), at::kFloat);
  const auto low = model->forward(tokens(2, 6), context_of_type(at::kBFloat16));
  CHECK((low.hidden_ND.scalar_type() == at::kBFloat16));
  CHECK(low.hidden_ND.isfinite().all().item<bool>());
  for (const auto& d : low.decisions) CHECK((d.gate_R().scalar_type() == at::kFloat));
  const auto high = model->forward(tokens(2, 6), context_of_type(at::kFloat));
  // Choices may differ where scores are close, so the outputs are compared on the whole.
  const auto off =
      (low.hidden_ND.to(at::kFloat) - high.hidden_ND).norm().item<double>() / high.hidden_ND.norm().item<double>();
  CHECK(off < 0.2);
  const auto nats = token_losses(*model, low.hidden_ND, tokens(1, 12, 9).reshape({-1}));
  CHECK((nats.scalar_type() == at::kFloat));
}

TEST_CASE("the same seed gives the same model; saved and loaded it computes the same") {
  for (const auto& [what, named] : variants()) {
    CAPTURE(what);
    const auto a = make_model(named, at::kFloat, 1), b = make_model(named, at::kFloat, 1),
               c = make_model(named, at::kFloat, 2);
    CHECK(same_state(save(*a), save(*b)));
    CHECK_FALSE(same_state(save(*a), save(*c)));
    const auto saved = save(*a);
    CHECK(load(*c, saved) == saved.size());
    CHECK(same_bits(logits_of(*a, tokens(2, 5), at::kFloat), logits_of(*c, tokens(2, 5), at::kFloat)));
  }
}

TEST_CASE("a router that looks ahead is refused, with the way out") {
  const auto with = [](const Value& moe, bool allow) {
    return decoder(tiny({{"moe", moe}, {"allow_noncausal", allow}}));
  };
  const auto expert_choice =
      table({{"name", "routed"}, {"n_experts", 3}, {"d_expert", 4}, {"router", "expert_choice"}});
  for (const Value& moe : {Value(expert_choice), Value(table({{"name", "soft"}, {"n_experts", 3}, {"d_expert", 4}}))}) {
    const auto name = std::get<std::string>(std::get<Table>(moe.data).find("name")->data);
    CHECK(complaint([&] { make_model(with(moe, false)); }) ==
          text("decoder: moe: '", name,
               "' with these settings lets a token depend on later ones, so held-out loss would be "
               "too good to be true and generation would differ from training | choose a causal router, or set "
               "model.allow_noncausal = true to accept this"));
    const auto model = make_model(with(moe, true));
    CHECK_FALSE(model->facts(8).is_causal);
    auto context = context_of_type(at::kDouble);
    context.record = true;
    CHECK(model->forward(tokens(2, 4), context).decisions.size() == 2);
  }
}

TEST_CASE("sizes that do not fit are refused") {
  const auto reason = [](std::initializer_list<std::pair<std::string, Value>> more) {
    return complaint([&] { make_model(decoder(tiny(more))); });
  };
  CHECK(reason({{"n_heads", 3}}) == "decoder: d_model = 8 is not a multiple of n_heads = 3");
  CHECK(reason({{"n_heads", 8}}).find("must be even for rotary positions") != std::string::npos);
  CHECK(reason({{"n_heads", 4}, {"n_kv_heads", 3}}) == "decoder: n_heads = 4 is not a multiple of n_kv_heads = 3");
  const auto model = make_model(decoder(tiny()));
  CHECK(complaint([&] {
          model->forward(at::zeros({4}, at::kLong), context_of_type(at::kDouble));
        }).find("tokens must be [sequences, length]") != std::string::npos);
}

TEST_CASE("every feed-forward place is heard at work, dense ones and those of a mixture of depths too") {
  const auto depth = table({{"every", 2}, {"sparsity", 2}});
  for (const auto& fields : {tiny(), tiny({{"moe_first", 1}}), tiny({{"depth", depth}})}) {
    const auto model = make_model(decoder(fields));
    double now = 0;
    const auto passes_of = [&](int64_t n) {
      const FeedForwardTimer timer([&] { return now += 1; }, at::kCPU);
      const at::NoGradGuard no_grad;
      for (int64_t i = 0; i < n; ++i) model->forward(tokens(2, 4), context_of_type(at::kDouble));
      CHECK(timer.seconds() == static_cast<double>(timer.passes()));  // the clock was read at both ends of each
      return timer.passes();
    };
    CHECK(passes_of(1) == 2);
    CHECK(passes_of(3) == 6);
    model->forward(tokens(2, 4), context_of_type(at::kDouble));
    CHECK(passes_of(0) == 0);
  }
}
