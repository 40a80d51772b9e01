// Expectations that could never be judged are found from the configuration.
#include "collegium/recipe/expectations.h"

#include <filesystem>
#include <nlohmann/json.hpp>

#include "tests/support/routing.h"

namespace {

using namespace collegium;

std::string refusal(const Recipe& recipe) {
  try {
    check_expectations(recipe);
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

}  // namespace

TEST_CASE_FIXTURE(test::OneThread, "what every recipe expects can be measured") {
  int n = 0;
  for (const auto& file : std::filesystem::recursive_directory_iterator(COLLEGIUM_SOURCE "/recipes")) {
    if (file.path().extension() != ".toml") continue;
    CAPTURE(file.path().string());
    const auto recipe = read_recipe(file.path());
    CHECK(refusal(recipe) == "");
    ++n;
  }
  CHECK(n >= 40);
}

TEST_CASE("what a configuration leaves out, it cannot measure") {
  RunConfig run;
  const auto why = [&](std::string_view measure) { return why_unmeasured(run, measure, nullptr); };
  CHECK(why("valid_bpb").empty());
  CHECK(why("valid_accuracy") == "the task 'language' has no images");
  CHECK(why("chrf") == "no source of data.sources has translations");
  CHECK(why("board_coverage") == "no source of data.sources has games of chess");
  CHECK(why("divergence") == "train.agreement is false");
  run.train.agreement = true, run.train.noise = 0;
  CHECK(why("divergence").empty());
  CHECK(why("noise_rise") == "train.noise is 0: no token is replaced");
  run.data.sources = {"gramps", "chess"};
  CHECK(why("chrf").empty());
  CHECK(why("board_coverage").empty());
  run.sample.translations = 0, run.sample.boards = 1;
  CHECK(why("chrf") == "sample.translations is 0");
  CHECK(why("board_coverage") == "sample.boards is 1, and 2 games are the least");
  run.task.name = "digit_grid";
  CHECK(why("gap") == "the task 'digit_grid' has no text");
  CHECK(why("valid_accuracy").empty());
}
