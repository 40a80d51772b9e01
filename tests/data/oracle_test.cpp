// The C++ side of tests/python/test_tokenizer.py, which holds our ids against Hugging Face's `tokenizers`.
// COLLEGIUM_ORACLE names a folder with strings.json (a list of strings to encode) and ids.json (lists of ids to
// decode); tokenizers and results are written there. Without it the case is skipped.
#include <nlohmann/json.hpp>

#include "collegium/data/bpe_trainer.h"
#include "collegium/data/documents.h"
#include "collegium/data/files.h"
#include "collegium/data/tokenizer.h"
#include "collegium/data/utf8.h"
#include "tests/data/helpers.h"

using namespace collegium;
using namespace collegium::data;
using namespace collegium::data::test;
using Json = nlohmann::json;

TEST_CASE("tokenizer oracle" * doctest::skip(std::getenv("COLLEGIUM_ORACLE") == nullptr)) {
  const std::filesystem::path folder = std::getenv("COLLEGIUM_ORACLE");
  auto strings = Json::parse(read_bytes(folder / "strings.json")).get<std::vector<std::string>>();
  const auto ids = Json::parse(read_bytes(folder / "ids.json")).get<std::vector<std::vector<int32_t>>>();
  for (const auto* name : {"shakespeare", "milton", "udhr"}) {
    if (!has_source(name)) continue;
    // The beginning of each text: all languages, and still a run of seconds.
    for (const auto& document : read_source(name, offline_paths()).documents)
      strings.push_back(document.text.substr(0, utf8_floor(document.text, 8000)));
  }
  write_whole(folder / "all_strings.json", Json(strings).dump());

  const std::vector<std::string_view> texts(strings.begin(), strings.end());
  const std::vector<std::pair<std::string, Tokenizer>> tokenizers = {
      {"byte", Tokenizer::of_bytes()}, {"bpe_small", train_bpe(texts, 300)}, {"bpe", train_bpe(texts, 4096)}};
  for (const auto& [name, tokenizer] : tokenizers) {
    tokenizer.save(folder / (name + ".json"));
    auto encoded = Json::array(), decoded = Json::array();
    for (const auto& string : strings) encoded.push_back(tokenizer.encode(string));
    for (auto list : ids) {
      for (auto& id : list) id = static_cast<int32_t>(id % tokenizer.vocab_size());
      decoded.push_back(tokenizer.decode(list));
    }
    write_whole(folder / (name + ".encoded.json"), encoded.dump());
    write_whole(folder / (name + ".decoded.json"), decoded.dump());
    CHECK(encoded.size() == strings.size());
  }
}
