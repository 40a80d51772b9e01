// Measures of auxiliary terms: read from a run's rows, refused before training where nothing logs them.
#include "collegium/recipe/measures.h"

#include <filesystem>
#include <fstream>

#include "collegium/recipe/aux_terms.h"
#include "collegium/recipe/in_turn.h"
#include "tests/support/routing.h"

namespace {

using namespace collegium;
namespace fs = std::filesystem;

std::string usage_error(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

// A recipe file in a folder that goes when the test ends.
struct RecipeFolder {
  fs::path path;
  RecipeFolder() {
    auto name = (fs::temp_directory_path() / "collegium-recipe-XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    path = name;
  }
  ~RecipeFolder() { fs::remove_all(path); }
  Recipe recipe(const std::string& router, const std::string& expectations, const std::string& train = "") const {
    const auto file = path / "recipe.toml";
    std::ofstream(file) << "[model]\nname = \"decoder\"\nd_model = 16\nn_layers = 1\nn_heads = 2\n"
                           "[model.moe]\nname = \"routed\"\nn_experts = 4\nd_expert = 8\nrouter = "
                        << router << "\n[train]\nsteps = 1\n"
                        << train << expectations;
    return read_recipe(file);
  }
};

}  // namespace

TEST_CASE("names of auxiliary measures") {
  CHECK(aux_term_of("aux:agreement") == "agreement");
  CHECK(aux_term_of("aux:agreement:rise") == "agreement");
  CHECK(aux_term_of("valid_bpb").empty());
  CHECK(aux_term_of("aux:").empty());
  CHECK(find_measure("aux:agreement").place == Measure::Place::aux);
  CHECK(find_measure("active_units").place == Measure::Place::statistics);
  CHECK(usage_error([] { find_measure("aux:"); }).starts_with("unknown measure 'aux:'"));
  CHECK(usage_error([] {
          find_measure("valid_bqb");
        }).starts_with("unknown measure 'valid_bqb'; did you mean 'valid_bpb'?"));
}

TEST_CASE("what a run has not got of itself is measured in turn, and so is its speed") {
  size_t n = 0;
  for (const auto& m : measures()) {
    if (m.place != Measure::Place::in_turn) continue;
    CHECK(is_measured_in_turn(m.name));
    ++n;
  }
  CHECK(n == 2);
  CHECK(is_measured_in_turn("tokens_per_second"));
  CHECK_FALSE(is_measured_in_turn("valid_bpb"));
  CHECK(median_of({3, 1, 2}) == 2);
}

TEST_CASE_FIXTURE(test::OneThread, "terms of a configuration are found without training, rare ones too") {
  const RecipeFolder folder;
  const auto compete = folder.recipe("{ name = \"compete\", k = 1 }", "", "consistency = 1.0\n").run;
  const auto terms = aux_terms(compete, "agreement");
  CHECK(terms.count("agreement"));
  CHECK(terms.count("balance_loss"));
  CHECK(terms.count("consistency"));
  CHECK(aux_terms(folder.recipe("{ name = \"loc_moe\" }", "").run, "nothing").count("stays_local"));
}

TEST_CASE("a baseline that is the run itself is refused") {
  const RecipeFolder folder;
  const auto told = [&](const std::string& baseline) {
    return usage_error([&] { folder.recipe("{ name = \"top_k\", k = 1 }", "[baseline.model.moe]\n" + baseline); });
  };
  CHECK(told("router = { name = \"top_k\", k = 2 }\n") == "no error");
  CHECK(told("router = { name = \"top_k\", k = 1 }\n").find("baseline: changes nothing") != std::string::npos);
}

TEST_CASE_FIXTURE(test::OneThread, "an expectation of a term that nothing logs is refused before training") {
  const RecipeFolder folder;
  const auto with = [&](const std::string& measure, const std::string& relation, const std::string& more = "") {
    const auto recipe =
        folder.recipe("{ name = \"top_k\", k = 1 }",
                      "[[expect]]\nmeasure = \"" + measure + "\"\nrelation = \"" + relation + "\"\n" + more);
    return usage_error([&] { check_aux_terms(recipe); });
  };
  CHECK(with("aux:balance_loss", "at_most", "value = 1\n") == "no error");
  CHECK(with("valid_bpb", "at_most", "value = 1\n") == "no error");
  const auto misspelt = with("aux:balanse_loss:rise", "at_most", "value = 1\n");
  CHECK(misspelt.find("recipe.toml:13: expect[0]: aux:balanse_loss:rise: the recipe's side logs no auxiliary term "
                      "'balanse_loss'; did you mean 'balance_loss'? (it logs: ") != std::string::npos);
  const std::string baseline = "[baseline.model.moe]\nrouter = { name = \"hash\" }\n";
  CHECK(with("aux:balance_loss", "at_most", "value = 1\n" + baseline) == "no error");
  CHECK(with("aux:balance_loss", "below_baseline", baseline)
            .ends_with(
                "expect[0]: aux:balance_loss: the baseline logs no auxiliary term 'balance_loss' (it logs: none)"));
}
