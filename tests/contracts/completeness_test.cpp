// Nothing of the catalogues is half there: names, sources, help, files, goldens, recipes.
#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "collegium/base/text_table.h"
#include "collegium/recipe/catalogues.h"
#include "collegium/recipe/workload.h"
#include "collegium/route/router.h"

namespace {

using namespace collegium;
namespace fs = std::filesystem;

const fs::path kSource = COLLEGIUM_SOURCE;

std::string content(const fs::path& path) {
  std::ifstream file(path);
  std::stringstream all;
  all << file.rdbuf();
  return all.str();
}

bool is_name(const std::string& name) {
  return !name.empty() && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
  });
}

void check_fields(const std::vector<FieldInfo>& fields, const std::set<std::string>& lists) {
  std::set<std::string> names;
  for (const auto& f : fields) {
    CAPTURE(f.name);
    CHECK(is_name(f.name));
    CHECK(names.insert(f.name).second);
    CHECK_FALSE(f.help.empty());
    CHECK_FALSE(f.type.empty());
    if (!f.catalogue.empty()) CHECK(lists.count(f.catalogue));
    check_fields(f.children, lists);
  }
}

// Fits a terminal: at most two lines of 110 columns, none of them blank or with spaces at an end.
void check_equation(const std::string& equation) {
  if (equation.empty()) return;
  CHECK(std::count(equation.begin(), equation.end(), '\n') <= 1);
  std::istringstream lines(equation + "\n");
  for (std::string line; std::getline(lines, line);) {
    CAPTURE(line);
    CHECK(display_width(line) <= 110);
    REQUIRE_FALSE(line.empty());
    CHECK((line.front() != ' ' && line.back() != ' '));
  }
}

// The source file of an entry: collegium/<room>/<catalogue>/<name>.cpp, or <singular>/<name>.cpp where a room has a
// list of its own name.
fs::path source_file(const Catalogue& catalogue, const std::string& name) {
  for (const auto& room : fs::directory_iterator(kSource / "collegium")) {
    const auto below = room.path() / catalogue.name / (name + ".cpp");
    if (fs::exists(below)) return below;
  }
  return kSource / "collegium" / catalogue.singular / (name + ".cpp");
}

std::string recipes_text() {
  std::string all;
  for (const auto* folder : {"recipes", "presets"})
    for (const auto& file : fs::recursive_directory_iterator(kSource / folder))
      if (file.path().extension() == ".toml") all += content(file.path());
  return all;
}

// Optimizers and schedules of both sides of every recipe, and of a run that sets none: what is trained with, not what a
// text mentions.
std::set<std::string> learners_of_recipes() {
  const train::TrainConfig unset;
  std::set<std::string> out = {unset.optimizer.name, unset.schedule.name};
  for (const auto& file : fs::recursive_directory_iterator(kSource / "recipes")) {
    if (file.path().extension() != ".toml") continue;
    const auto recipe = read_recipe(file.path());
    for (const auto* run : {&recipe.run, recipe.has_baseline ? &recipe.baseline : nullptr})
      if (run) out.insert(run->train.optimizer.name), out.insert(run->train.schedule.name);
  }
  return out;
}

// Entries that no paper of the catalogue of papers owns. An entry that is not here says `.paper = N`.
const std::map<std::string, std::set<std::string>> kWithoutPaper = {
    {"attentions", {"full", "moa"}}, {"experts", {"gelu", "lora", "swiglu"}},
    {"gates", {"group_product"}},    {"layers", {"dense", "latent", "peer"}},
    {"models", {"decoder"}},         {"optimizers", {"adamw", "muon"}},
    {"routers", {"hierarchical"}},   {"schedules", {"constant", "cosine", "wsd"}},
    {"scorers", {"hierarchical"}},   {"tasks", {"language"}},
};

// Stages that some preset router is made of.
std::set<std::string> stages_of_presets() {
  std::set<std::string> out;
  for (const auto* e : route::routers()) {
    const auto router =
        e->make({.name = std::string(e->card.name)}, {.d_model = 4, .n_experts = 4, .options = at::kFloat});
    const auto& c = *router->composition();
    for (const auto* part : {&c.scorer, &c.selector, &c.capacity, &c.gate}) out.insert(part->name);
    for (const auto& b : c.balancers) out.insert(b.name);
  }
  return out;
}

TEST_CASE("every recipe reads, and both of its sides can be built") {
  int n = 0;
  for (const auto& file : fs::recursive_directory_iterator(kSource / "recipes")) {
    if (file.path().extension() != ".toml") continue;
    CAPTURE(file.path().string());
    const auto recipe = read_recipe(file.path());
    CHECK_NOTHROW(task_of(recipe.run)->imagine(recipe.run)->build_model(at::kMeta));
    if (recipe.has_baseline) CHECK_NOTHROW(task_of(recipe.baseline)->imagine(recipe.baseline)->build_model(at::kMeta));
    ++n;
  }
  CHECK(n >= 40);
}

}  // namespace

TEST_CASE("every entry has a name of its own, a source, a paper's number, a place, a file and help") {
  std::set<std::string> lists;
  for (const auto& c : catalogues()) CHECK(lists.insert(std::string(c.name)).second);
  CHECK(lists.size() >= 11);
  for (const auto& c : catalogues()) {
    CAPTURE(c.name);
    CHECK_FALSE(c.entries.empty());
    std::set<std::string> names;
    for (const auto& e : c.entries) {
      CAPTURE(e.name);
      CHECK(is_name(e.name));
      CHECK(names.insert(e.name).second);
      CHECK(e.catalogue == c.name);
      CHECK((e.paper >= 0 && e.paper <= 119));
      CHECK_FALSE(e.source.empty());
      CHECK_FALSE(e.taxonomy.empty());
      CHECK_FALSE(e.summary.empty());
      CHECK(e.summary.back() != '.');
      check_equation(e.equation);
      const auto file = source_file(c, e.name);
      CHECK_MESSAGE(fs::exists(file), file.string());
      CHECK_MESSAGE(content(file).find("\"" + e.name + "\"") != std::string::npos, file.string()
                                                                                       << " does not name it");
      check_fields(e.fields, lists);
    }
    CHECK(std::is_sorted(c.entries.begin(), c.entries.end(),
                         [](const EntryInfo& a, const EntryInfo& b) { return a.name < b.name; }));
  }
}

TEST_CASE("an entry has its paper's number, or is listed as one without") {
  std::map<std::string, std::set<std::string>> found;
  for (const auto& c : catalogues())
    for (const auto& e : c.entries)
      if (e.paper == 0) found[std::string(c.name)].insert(e.name);
  for (const auto& c : catalogues()) {
    const std::string name(c.name);
    const auto listed = kWithoutPaper.count(name) ? kWithoutPaper.at(name) : std::set<std::string>{};
    for (const auto& entry : found[name])
      CHECK_MESSAGE(listed.count(entry), name << ": '" << entry << "' has no paper; is that so?");
    for (const auto& entry : listed)
      CHECK_MESSAGE(found[name].count(entry), name << ": '" << entry << "' has a paper, or is gone");
  }
  for (const auto& [name, entries] : kWithoutPaper) CHECK_MESSAGE(found.count(name), name);
}

TEST_CASE("every file of a catalogue's folder is in its list") {
  for (const auto& c : catalogues()) {
    std::set<std::string> names;
    for (const auto& e : c.entries) names.insert(e.name);
    for (const auto& room : fs::directory_iterator(kSource / "collegium")) {
      if (!fs::is_directory(room.path() / c.name)) continue;
      for (const auto& file : fs::directory_iterator(room.path() / c.name))
        CHECK_MESSAGE(names.count(file.path().stem().string()), file.path().string() << " is in no list");
    }
  }
}

TEST_CASE("every entry's default configuration is valid and complete") {
  for (const auto& c : catalogues())
    for (const auto& e : c.entries) {
      CAPTURE(c.name);
      CAPTURE(e.name);
      const auto all = resolve_component(c.name, {.name = e.name});
      CHECK(all.items.size() == e.fields.size() + 1);
      auto fields = all;
      fields.items.erase(fields.items.begin());
      CHECK(resolve_component(c.name, {.name = e.name, .fields = fields}) == all);
    }
}

TEST_CASE("every router has a recipe; every layer, stage, optimizer and schedule is used by a recipe or a preset") {
  for (const auto* e : route::routers()) {
    const auto path = kSource / "recipes/route" / (std::string(e->card.name) + ".toml");
    CHECK_MESSAGE(fs::exists(path), path.string());
  }
  const auto text_of_recipes = recipes_text();
  const auto stages = stages_of_presets();
  const std::set<std::string> rooms = {"scorers",   "selectors", "capacities", "gates",
                                       "balancers", "layers",    "attentions", "models"};
  const auto learners = learners_of_recipes();
  for (const auto& c : catalogues())
    for (const auto& e : c.entries)
      if (rooms.count(std::string(c.name)))
        CHECK_MESSAGE((stages.count(e.name) || text_of_recipes.find("\"" + e.name + "\"") != std::string::npos),
                      c.name << ": no recipe and no preset uses '" << e.name << "'");
      else if (c.name == "optimizers" || c.name == "schedules")
        CHECK_MESSAGE(learners.count(e.name), c.name << ": no recipe trains with '" << e.name << "'");
}

TEST_CASE("every router, layer, attention and kind of expert has a golden") {
  for (const auto& c : catalogues())
    for (const auto& e : c.entries)
      if (c.name == "routers" || c.name == "layers" || c.name == "attentions" || c.name == "experts") {
        const auto path = kSource / "tests/golden" / c.name / (e.name + ".txt");
        CHECK_MESSAGE(fs::exists(path), path.string());
      }
}
