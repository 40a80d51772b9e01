// The recurrent router in a decoder of three layers: the state goes from layer to layer, and gradients come back.
//
// B sequences, T tokens each, V vocabulary.
#include "collegium/model/language_model.h"
#include "tests/support/routing.h"

namespace {

using namespace collegium;
using namespace collegium::model;
using namespace collegium::test;

constexpr int64_t kVocabulary = 11;

std::unique_ptr<LanguageModel> recurrent_decoder(int64_t moe_every) {
  const Named named{
      .name = "decoder",
      .fields = table({{"d_model", 8},
                       {"n_layers", 3},
                       {"n_heads", 2},
                       {"init_std", 0.3},
                       {"moe_every", moe_every},
                       {"dense", table({{"name", "dense"}, {"d_hidden", 6}})},
                       {"moe", table({{"name", "routed"},
                                      {"n_experts", 3},
                                      {"d_expert", 4},
                                      {"router", table({{"name", "recurrent"}, {"balance_loss", 0.0}})}})}})};
  return find(language_models(), named, "model")
      .make(named, {.vocabulary = kVocabulary, .random = Random(1), .options = at::kDouble});
}

Tensor* find_parameter(LanguageModel& model, std::string_view name) {
  for (const auto& p : parameters_of(model))
    if (p.name == name) return p.tensor;
  return nullptr;
}

// Gates of a layer's decision, and how they depend on the projection of the lowest router.
Tensor gradient_at_lowest_router(int64_t moe_every, size_t decision) {
  const auto model = recurrent_decoder(moe_every);
  const auto token_BT = ids(Random(3), 12, kVocabulary).reshape({2, 6});
  // Experts that answer nothing: the gates of a layer then depend on lower routers through the state alone.
  {
    const at::NoGradGuard no_grad;
    for (const auto& p : parameters_of(*model))
      if (p.name.find(".experts.") != std::string::npos) p.tensor->zero_();
  }
  const auto out =
      model->forward(token_BT, {.phase = route::Phase::train, .random = Random(5), .compute = at::kDouble});
  REQUIRE(decision < out.decisions.size());
  out.decisions[decision].gate_R().square().sum().backward();
  const auto* lowest = find_parameter(*model, "layers.0.feed_forward.router.scorer.project");
  REQUIRE(lowest);
  return lowest->grad();
}

}  // namespace

TEST_CASE("in a decoder the recurrent router's gates depend on the routers of all lower layers") {
  const Threads one(1);
  for (const size_t layer : {0, 1, 2}) {
    CAPTURE(layer);
    const auto grad = gradient_at_lowest_router(1, layer);
    REQUIRE(grad.defined());
    CHECK(grad.abs().max().item<double>() > 1e-6);
  }
  // Across a dense layer, too: layers 0 and 2 have experts, and the state waits.
  const auto across = gradient_at_lowest_router(2, 1);
  REQUIRE(across.defined());
  CHECK(across.abs().max().item<double>() > 1e-6);
}

TEST_CASE("a decoder with recurrent routers decodes with a cache as without") {
  const Threads one(1);
  const auto model = recurrent_decoder(1);
  const at::NoGradGuard no_grad;
  const ModelContext context{.phase = route::Phase::evaluate, .random = Random(5), .compute = at::kDouble};
  const auto token_BT = ids(Random(3), 14, kVocabulary).reshape({2, 7});
  const auto whole = model->forward(token_BT, context).hidden_ND.reshape({2, 7, 8});
  KeyValueCache cache;
  for (int64_t t = 0; t < 7; ++t) {
    const auto part = model->forward(token_BT.slice(1, t, t + 1), context, &cache).hidden_ND.reshape({2, 1, 8});
    CHECK(difference(part, whole.slice(1, t, t + 1)) < 1e-12);
  }
}
