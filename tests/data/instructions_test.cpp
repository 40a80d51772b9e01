#include "collegium/data/instructions.h"

#include "collegium/data/gettext.h"
#include "collegium/data/prepare.h"
#include "tests/data/helpers.h"

using namespace collegium;
using namespace collegium::data;
using namespace collegium::data::test;

namespace {

std::vector<Document> pairs(int n) {
  std::string catalogue;
  for (int i = 0; i < n; ++i) {
    const auto number = std::to_string(i);
    catalogue += "msgid \"a" + number + "\"\nmsgstr \"b" + number + "\"\n\n";
  }
  return read_gettext(catalogue, "fr", "fr.po");
}

}  // namespace

TEST_CASE("an instruction is taken from the text and from the prompt, and what follows stays") {
  auto documents = pairs(2);
  CHECK(documents[1].n_instruction_bytes == 4);
  take_instructions(documents, 1, Random(1));
  CHECK(documents[1].text == "a1\nb1");
  CHECK(documents[1].n_prompt_bytes == 3);
  CHECK(documents[1].n_instruction_bytes == 0);
  take_instructions(documents, 1, Random(1));  // none is left to take
  CHECK(documents[1].text == "a1\nb1");
}

TEST_CASE("a share of them, the same for the same seed") {
  const auto left = [](double share, uint64_t seed) {
    auto documents = pairs(200);
    take_instructions(documents, share, Random(seed));
    std::vector<bool> out;
    for (const auto& d : documents) out.push_back(d.text.starts_with("fr: "));
    return out;
  };
  const auto count = [](const std::vector<bool>& of) { return std::count(of.begin(), of.end(), true); };
  CHECK(count(left(0, 1)) == 200);
  CHECK(count(left(1, 1)) == 0);
  CHECK(count(left(0.1, 1)) > 160);
  CHECK(count(left(0.1, 1)) < 195);
  CHECK(left(0.1, 1) == left(0.1, 1));
  CHECK(left(0.1, 1) != left(0.1, 2));
}

TEST_CASE("text that names no task is refused") {
  Scratch scratch;
  std::string lines;
  for (int i = 0; i < 100; ++i) lines += "line " + std::to_string(i) + "\n\n";
  scratch.write("a.txt", lines);
  const SourcePaths paths{.cache = scratch.path() / "cache", .offline = true};
  DataConfig config;
  config.sources = {(scratch.path() / "a.txt").string()}, config.tokenizer = "byte", config.gap = 0;
  config.blind_held_out = true;
  CHECK(error_of([&] { prepare(config, paths); }).find("data.blind_held_out: no document names its task") !=
        std::string::npos);
  config.blind = 0.1;
  CHECK(error_of([&] { prepare(config, paths); }).find("data.blind: no document names its task") != std::string::npos);
}
