#include "collegium/data/prepare.h"

#include <set>

#include "tests/data/helpers.h"

using namespace collegium;
using namespace collegium::data;
using namespace collegium::data::test;
namespace fs = std::filesystem;

namespace {

// A folder of twelve short texts and a cache, both below the scratch folder.
struct SmallData {
  Scratch scratch;
  SourcePaths paths;
  DataConfig config;
  SmallData() {
    for (int i = 0; i < 12; ++i) {
      std::string text;
      for (int j = 0; j < 40; ++j) text += "line " + std::to_string(i * j % 7) + " of the text, caf\xc3\xa9\n";
      scratch.write("texts/t" + std::to_string(i) + ".txt", text);
    }
    paths = {.cache = scratch.path() / "cache", .offline = true};
    config.sources = {(scratch.path() / "texts").string()};
    config.vocab_size = 300;
  }
};

std::string text_of(const PreparedData& data, const TokenSet& set, size_t document) {
  const auto& span = set.documents()[document];
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < span.n_tokens; ++i) ids.push_back(set.token(span.begin + i));
  CHECK(ids.back() == data.tokenizer.end_id());
  return data.tokenizer.decode(ids);
}

}  // namespace

TEST_CASE("the config reads, writes and checks its fields") {
  const auto config = read_config<DataConfig>(table({{"sources", List{"udhr"}}, {"tokenizer", "byte"}}), "data");
  CHECK(config.sources == std::vector<std::string>{"udhr"});
  CHECK(config.vocab_size == 2048);
  CHECK(error_of([] { read_config<DataConfig>(table({{"vocab_size", 10}}), "data"); }).find("data.vocab_size") !=
        std::string::npos);
  CHECK(error_of([] { read_config<DataConfig>(table({{"heldout", 0.2}}), "data"); }).find("held_out") !=
        std::string::npos);
}

TEST_CASE("prepared data decode to the documents, both sides apart") {
  for (const auto* tokenizer : {"byte", "bpe"}) {
    CAPTURE(tokenizer);
    SmallData small;
    small.config.tokenizer = tokenizer;
    small.config.held_out = 0.25;
    const auto data = prepare(small.config, small.paths);
    CHECK_FALSE(data.from_cache);
    CHECK(data.train_statistics.n_documents == 9);
    CHECK(data.held_out_statistics.n_documents == 3);
    std::set<std::string> ids;
    for (const auto* set : {&data.train, &data.held_out}) {
      int64_t bytes = 0;
      for (size_t i = 0; i < set->documents().size(); ++i) {
        const auto& span = set->documents()[i];
        CHECK(ids.insert(span.id).second);
        std::ifstream file(small.scratch.path() / "texts" / (span.id + ".txt"));
        const std::string text((std::istreambuf_iterator<char>(file)), {});
        CHECK(text_of(data, *set, i) == text);
        CHECK(span.n_bytes == static_cast<int64_t>(text.size()));
      }
      for (int64_t i = 0; i < set->n_tokens(); ++i) bytes += set->bytes_of(set->token(i));
      CHECK(bytes == set->n_bytes());
    }
    CHECK(ids.size() == 12);
    CHECK(data.train_statistics.n_tokens == data.train.n_tokens());
    CHECK(data.sources.size() == 1);
    CHECK(data.sources[0].sha256.size() == 64);
    CHECK(fs::exists(data.folder / "tokenizer.json"));
  }
}

TEST_CASE("a second call finds the first one's result; any change of input does not") {
  SmallData small;
  const auto first = prepare(small.config, small.paths);
  const auto second = prepare(small.config, small.paths);
  CHECK(second.from_cache);
  CHECK(second.key == first.key);
  CHECK(second.train.n_tokens() == first.train.n_tokens());
  CHECK(second.notes == first.notes);
  CHECK(second.sources[0].sha256 == first.sources[0].sha256);
  CHECK(second.tokenizer.to_json() == first.tokenizer.to_json());

  std::set<std::string> keys = {first.key};
  const auto is_new = [&](auto change) {
    auto config = small.config;
    change(config);
    const auto data = prepare(config, small.paths);
    return keys.insert(data.key).second && !data.from_cache;
  };
  CHECK(is_new([](auto& c) { c.vocab_size = 290; }));
  CHECK(is_new([](auto& c) { c.tokenizer = "byte"; }));
  CHECK(is_new([](auto& c) { c.split_seed = 1; }));
  CHECK(is_new([](auto& c) { c.held_out = 0.3; }));
  CHECK(is_new([](auto& c) { c.max_documents = 5; }));
  CHECK(is_new([](auto& c) { c.languages = {"t1", "t2", "t3"}; }));
  small.scratch.write("texts/t3.txt", "another text\n");
  CHECK(is_new([](auto&) {}));
}

TEST_CASE("a damaged cache is made again") {
  SmallData small;
  const auto folder = prepare(small.config, small.paths).folder;
  for (const auto* file : {"train.bin", "held_out.bin", "tokenizer.json", "manifest.json"}) {
    CAPTURE(file);
    std::ofstream(folder / file, std::ios::app) << "x";
    CHECK_FALSE(prepare(small.config, small.paths).from_cache);
    CHECK(prepare(small.config, small.paths).from_cache);
    fs::remove(folder / file);
    CHECK_FALSE(prepare(small.config, small.paths).from_cache);
  }
  {
    std::fstream tokens(folder / "train.bin", std::ios::in | std::ios::out | std::ios::binary);
    tokens.seekp(10);
    tokens.put('\x7f');
  }
  CHECK_FALSE(prepare(small.config, small.paths).from_cache);
  CHECK(std::distance(fs::directory_iterator(folder.parent_path()), {}) == 1);
}

TEST_CASE("a tokenizer file is used as it is") {
  SmallData small;
  const auto made = prepare(small.config, small.paths);
  auto config = small.config;
  config.tokenizer = (small.scratch.path() / "mine.json").string();
  made.tokenizer.save(config.tokenizer);
  const auto data = prepare(config, small.paths);
  CHECK(data.tokenizer.to_json() == made.tokenizer.to_json());
  CHECK(data.key != made.key);
}

TEST_CASE("sources mix, with the source in the id") {
  SmallData small;
  small.scratch.write("more/t1.txt", "a text of the same name\n");
  small.scratch.write("more/other.txt", "another text\n");
  small.config.sources.push_back((small.scratch.path() / "more").string());
  const auto data = prepare(small.config, small.paths);
  CHECK(data.train_statistics.n_documents + data.held_out_statistics.n_documents == 14);
  CHECK(data.sources.size() == 2);
  std::set<std::string> ids;
  for (const auto* set : {&data.train, &data.held_out})
    for (const auto& span : set->documents()) ids.insert(span.id);
  CHECK(ids.size() == 14);
  CHECK(ids.count((small.scratch.path() / "more/t1").string()) == 1);
}

TEST_CASE("languages and max_documents select") {
  std::vector<DocumentSet> sets(1);
  for (const auto* id : {"deu_1901", "deu_1996", "eng", "fra"})
    sets[0].documents.push_back({.id = id, .language = std::string(id, 3), .text = "x"});
  const auto n_selected = [&](std::vector<std::string> languages, int64_t limit) {
    DataConfig config;
    config.languages = std::move(languages), config.max_documents = limit;
    return select_documents(config, sets).size();
  };
  CHECK(n_selected({}, 0) == 4);
  CHECK(n_selected({"deu"}, 0) == 2);
  CHECK(n_selected({"deu_1996", "deu"}, 0) == 2);
  CHECK(n_selected({"deu_1996", "fra"}, 0) == 2);
  CHECK(n_selected({"deu", "fra"}, 1) == 1);
  CHECK(n_selected({}, 3) == 3);
  CHECK(error_of([&] { n_selected({"engl"}, 0); }) ==
        "2: data: languages: no document has the id or language 'engl'; did you mean 'eng'?");
}

TEST_CASE("wrong configs are told") {
  SmallData small;
  const auto error_with = [&](auto change) {
    auto config = small.config;
    change(config);
    return error_of(small.scratch, [&] { prepare(config, small.paths); });
  };
  CHECK(error_with([](auto& c) { c.sources.clear(); }) ==
        "2: data: sources must name at least one data set, .txt file or folder");
  CHECK(error_with([](auto& c) { c.sources.push_back(c.sources[0]); }) ==
        "2: data: a source is named twice in sources (SCRATCH/texts, SCRATCH/texts)");
  CHECK(error_with([](auto& c) { c.tokenizer = "wordpiece"; }) ==
        "2: data.tokenizer: must be \"byte\", \"bpe\" or the path of a tokenizer.json, got \"wordpiece\"");
  CHECK(error_with([](auto& c) { c.tokenizer = "/no/such/tokenizer.json"; }) ==
        "5: /no/such/tokenizer.json: cannot be opened for reading");
  const auto small_vocabulary = [&] {
    auto config = small.config;
    config.vocab_size = 100000;
    return prepare(config, small.paths).notes;
  }();
  REQUIRE(small_vocabulary.size() == 1);
  CHECK(small_vocabulary[0].starts_with("the text has no more pairs that occur twice: the vocabulary has "));
}

TEST_CASE("progress is reported stage by stage") {
  SmallData small;
  std::vector<std::string> stages;
  prepare(small.config, small.paths, [&](const DataProgress& p) {
    CHECK(p.done <= p.total);
    if (stages.empty() || stages.back() != p.stage) stages.emplace_back(p.stage);
  });
  CHECK(stages == std::vector<std::string>{"read", "tokenizer", "encode"});
}
