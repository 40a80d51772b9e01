// Answers to held-out prompts: which documents are asked, what is stored, and the score of what was answered.
#include "collegium/recipe/translation.h"

#include "collegium/infer/chrf.h"
#include "tests/support/routing.h"

namespace {

using namespace collegium;

std::unique_ptr<model::LanguageModel> byte_model(int64_t vocabulary) {
  const Table router = table({{"name", "thor"}});
  const Table moe = table({{"name", "routed"}, {"n_experts", 4}, {"d_expert", 8}, {"router", router}});
  const Named named{.name = "decoder",
                    .fields = table({{"d_model", 8}, {"n_layers", 2}, {"n_heads", 2}, {"moe", moe}})};
  return find(model::language_models(), named, "model")
      .make(named, {.vocabulary = vocabulary, .random = Random(1), .options = at::kFloat});
}

// Documents of bytes: the first part of each is its prompt.
data::TokenSet pairs(const data::Tokenizer& tokenizer, const std::vector<std::pair<std::string, std::string>>& all) {
  std::vector<int32_t> token;
  std::vector<data::DocumentSpan> documents;
  for (const auto& [prompt, rest] : all) {
    const auto begin = static_cast<int64_t>(token.size());
    for (const auto id : tokenizer.encode(prompt)) token.push_back(id);
    for (const auto id : tokenizer.encode(rest)) token.push_back(id);
    token.push_back(tokenizer.end_id());
    documents.push_back({.begin = begin,
                         .n_tokens = static_cast<int64_t>(token.size()) - begin,
                         .n_prompt = static_cast<int64_t>(prompt.size())});
  }
  return {token, tokenizer.byte_lengths(), documents};
}

}  // namespace

TEST_CASE_FIXTURE(test::OneThread, "prompts that fit are answered and scored") {
  const auto tokenizer = data::Tokenizer::of_bytes();
  const auto model = byte_model(tokenizer.vocab_size());
  const auto held_out = pairs(tokenizer, {{"fr: Open\n", "Ouvrir"},
                                          {"", "no prompt"},
                                          {"fr: Much too long for so short a context\n", "Beaucoup trop long"},
                                          {"fr: Close\n", "Fermer"},
                                          {"de: Open\n", "Auf"}});
  const auto score = [&](int64_t most) { return score_translations(*model, tokenizer, held_out, most, 32, at::kCPU); };
  const auto all = score(64);
  REQUIRE(all["n"] == 3);
  CHECK(all["answers"][0]["prompt"] == "fr: Open\n");
  CHECK(all["answers"][0]["reference"] == "Ouvrir");
  CHECK(all["answers"][2]["prompt"] == "de: Open\n");
  std::vector<std::string> made, reference;
  for (const auto& answer : all["answers"]) made.push_back(answer["made"]), reference.push_back(answer["reference"]);
  CHECK(all["chrf"].get<double>() ==
        infer::chrf({{made[0], reference[0]}, {made[1], reference[1]}, {made[2], reference[2]}}));
  CHECK(score(64) == all);
  CHECK(score(2)["answers"][1]["prompt"] == "fr: Close\n");
  CHECK(score(0).is_null());
}

TEST_CASE_FIXTURE(test::OneThread, "without prompts there is nothing to answer") {
  const auto tokenizer = data::Tokenizer::of_bytes();
  const auto model = byte_model(tokenizer.vocab_size());
  CHECK(score_translations(*model, tokenizer, pairs(tokenizer, {{"", "text"}}), 64, 32, at::kCPU).is_null());
}
