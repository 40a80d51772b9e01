// Single layers that differ, and neighbouring layers that share their experts.
//
// B sequences, T tokens each, V vocabulary, D model width, E experts of one layer.
#include "collegium/model/layer_overrides.h"

#include "collegium/model/language_model.h"
#include "tests/support/routing.h"

namespace {

using namespace collegium;
using namespace collegium::model;
using namespace collegium::test;

constexpr int64_t kVocabulary = 17, kWidth = 16, kExperts = 4, kLayers = 4;

Table routed(const Table& router) {
  return table({{"name", "routed"}, {"n_experts", kExperts}, {"d_expert", 6}, {"router", router}});
}
Table top_k() {
  return table({{"name", "top_k"}, {"k", 2}});
}
Table progressive(int64_t start) {
  return table({{"name", "progressive"}, {"k", 2}, {"start", start}, {"steps", 0}});
}

std::unique_ptr<LanguageModel> decoder(std::initializer_list<std::pair<std::string, Value>> more,
                                       at::ScalarType type = at::kFloat) {
  auto fields = table({{"d_model", kWidth},
                       {"n_layers", kLayers},
                       {"n_heads", 2},
                       {"init_std", 0.3},
                       {"dense", table({{"name", "dense"}, {"d_hidden", 7}})},
                       {"moe", routed(top_k())}});
  for (const auto& [key, value] : more) fields.set(key, value);
  return find(language_models(), {.name = "decoder"}, "model")
      .make({.name = "decoder", .fields = fields}, {.vocabulary = kVocabulary, .random = Random(1), .options = type});
}

Tensor* find_parameter(LanguageModel& made, const std::string& name) {
  for (const auto& p : parameters_of(made))
    if (p.name == name) return p.tensor;
  return nullptr;
}

Tensor tokens() {
  return ids(Random(3), 20, kVocabulary).reshape({2, 10});
}
ModelOutput run(LanguageModel& made, at::ScalarType type = at::kFloat) {
  return made.forward(tokens(), {.random = Random(5), .compute = type});
}

double total(LanguageModel& made) {
  double n = 0;
  for (const auto& p : parameters_of(made)) n += p.trained() ? static_cast<double>(p.tensor->numel()) : 0;
  return n;
}

}  // namespace

TEST_CASE("override: layers of other sizes and kinds among the rest") {
  const auto made = decoder({{"override", table({{"0", "dense"},
                                                 {"2-", table({{"n_experts", 6}})},
                                                 {"3", table({{"router", table({{"name", "hash"}})}})}})}});
  const auto facts = made->facts(10);
  CHECK(facts.moe_layers == std::vector<int64_t>{1, 2, 3});
  CHECK(facts.n_experts == std::vector<int64_t>{4, 6, 6});
  CHECK(facts.parameters_total == total(*made));
  CHECK(find_parameter(*made, "layers.0.feed_forward.network.down"));
  CHECK(find_parameter(*made, "layers.2.feed_forward.experts.down")->size(0) == 6);
  CHECK(find_parameter(*made, "layers.2.feed_forward.experts.down")->size(2) == 6);  // d_expert stays
  CHECK_FALSE(find_parameter(*made, "layers.3.feed_forward.router.scorer.weight"));
  CHECK(run(*made).decisions.size() == 3);
  // Every second layer, and experts where the pattern has none.
  const auto sparse = decoder({{"moe_every", 0}, {"override", table({{"1-3/2", routed(top_k())}})}});
  CHECK(sparse->facts(10).moe_layers == std::vector<int64_t>{1, 3});
}

TEST_CASE("override: an untouched layer is what it was") {
  const auto plain = decoder({}), one = decoder({{"override", table({{"1", "dense"}})}});
  for (const auto* name : {"layers.0.feed_forward.experts.down", "layers.2.feed_forward.router.scorer.weight"})
    CHECK(same_bits(find_parameter(*plain, name)->detach(), find_parameter(*one, name)->detach()));
}

TEST_CASE("override: what names no layers is refused with what would") {
  const auto said = [](const std::string& key, const Value& value = "dense") {
    return complaint([&] { decoder({{"override", table({{key, value}})}}); });
  };
  CHECK(said("x").find("'x' is no range of layers; a key names layers of 0 to 3") != std::string::npos);
  for (const auto* key : {"1-x", "-1", "1-3/0", "1/", ""})
    CHECK_MESSAGE(said(key).find("is no range of layers") != std::string::npos, key);
  CHECK(said("4").find("there are no layers 4 in a model of 4") != std::string::npos);
  CHECK(said("3-1").find("there are no layers 3-1") != std::string::npos);
  CHECK(said("1", 5).find("must be a name or a table, got integer") != std::string::npos);
  CHECK(said("1", table({{"n_expert", 3}})).find("did you mean 'n_experts'") != std::string::npos);
}

TEST_CASE_FIXTURE(OneThread,
                  "shared experts: with only their own open, the model is the one without sharing to the bit") {
  for (const auto type : {at::kFloat, at::kDouble}) {
    const auto local = decoder({}, type);
    const auto shared = decoder({{"share_experts", 2}, {"moe", routed(progressive(1000))}}, type);
    {
      const at::NoGradGuard no_grad;
      for (int64_t i = 0; i < kLayers; ++i) {
        const auto name = text("layers.", i, ".feed_forward.router.scorer.");
        find_parameter(*shared, name + "of.weight")
            ->slice(0, 0, kExperts)
            .copy_(*find_parameter(*local, name + "weight"));
      }
    }
    const auto a = run(*local, type), b = run(*shared, type);
    CHECK(same_bits(a.hidden_ND.detach(), b.hidden_ND.detach()));
    REQUIRE(a.losses.size() == b.losses.size());
    for (size_t i = 0; i < a.losses.size(); ++i)
      CHECK(same_bits(a.losses[i].value.detach(), b.losses[i].value.detach()));
    for (size_t i = 0; i < kLayers; ++i)
      CHECK(same_bits(a.decisions[i].expert_R() + static_cast<int64_t>(i % 2) * kExperts, b.decisions[i].expert_R()));
  }
}

TEST_CASE("shared experts: parameters are counted once, active ones do not grow but by the scores") {
  const auto local = decoder({}), shared = decoder({{"share_experts", 3}, {"moe", routed(progressive(0))}});
  const auto a = local->facts(10), b = shared->facts(10);
  // Three layers share; the fourth is alone. Each of the three scores the eight experts of the other two.
  const double scores = 3.0 * 2 * kExperts * kWidth;
  CHECK(b.parameters_total == a.parameters_total + scores);
  CHECK(b.parameters_total == total(*shared));
  CHECK(b.parameters_active == a.parameters_active + scores);
  CHECK(b.n_experts == std::vector<int64_t>{12, 12, 12, 4});
  std::set<std::string> names;
  for (const auto& p : parameters_of(*shared)) CHECK_MESSAGE(names.insert(p.name).second, p.name);
  CHECK(find_parameter(*shared, "layers.0.feed_forward.experts.down")->size(0) == 3 * kExperts);
  CHECK_FALSE(find_parameter(*shared, "layers.1.feed_forward.experts.down"));
  CHECK(find_parameter(*shared, "layers.3.feed_forward.experts.down")->size(0) == kExperts);
}

TEST_CASE("shared experts: neighbours are the next layers with experts, dense ones stand between") {
  const auto made = decoder({{"share_experts", 2}, {"override", table({{"1", "dense"}})}});
  CHECK(made->facts(10).n_experts == std::vector<int64_t>{8, 8, 4});
  CHECK_FALSE(find_parameter(*made, "layers.2.feed_forward.experts.down"));
}

TEST_CASE("shared experts: a saved model goes on as it was") {
  const auto a = decoder({{"share_experts", 2}, {"moe", routed(progressive(0))}});
  const auto b = decoder({{"share_experts", 2}, {"moe", routed(progressive(0))}});
  {
    const at::NoGradGuard no_grad;
    for (const auto& p : parameters_of(*a))
      if (p.trained()) p.tensor->mul_(1.3);
  }
  a->step();
  CHECK(load(*b, save(*a)) == parameters_of(*a).size());
  CHECK(same_bits(run(*a).hidden_ND.detach(), run(*b).hidden_ND.detach()));
}

TEST_CASE("shared experts: layers that cannot, or that differ, are refused") {
  const auto cannot = complaint([] {
    decoder({{"share_experts", 2}, {"moe", table({{"name", "cartesian"}, {"n_experts", 4}, {"d_expert", 4}})}});
  });
  CHECK(cannot.find("layers of kind 'cartesian' keep their experts to themselves") != std::string::npos);
  const auto differ =
      complaint([] { decoder({{"share_experts", 2}, {"override", table({{"1", table({{"n_experts", 5}})}})}}); });
  CHECK(differ.find("the first brought 4 'swiglu' of width 6, this one brings 5") != std::string::npos);
}

TEST_CASE("hidden units: those of the layer that was asked for, dense or with experts") {
  const auto made = decoder({{"override", table({{"0", "dense"}})}});
  const auto units = [&](int64_t layer) {
    return made->forward(tokens(), {.random = Random(5), .units_of = layer}).units_NF;
  };
  CHECK((units(0).sizes() == at::IntArrayRef{20, 7}));
  CHECK((units(2).sizes() == at::IntArrayRef{20, kExperts * 6}));
  CHECK((units(2).ne(0).reshape({20, kExperts, 6}).any(2).sum(1).eq(2).all().item<bool>()));
  CHECK_FALSE(units(-1).defined());
}
