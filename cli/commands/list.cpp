// `collegium list`: which mechanisms there are.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "cli/built_from.h"
#include "cli/command.h"
#include "cli/entries.h"
#include "collegium/io/fs.h"
#include "collegium/io/json.h"
#include "collegium/recipe/catalogues.h"
#include "collegium/recipe/evidence.h"
#include "collegium/recipe/measures.h"
#include "collegium/recipe/recipe.h"

namespace collegium::cli {
namespace {

constexpr Positional kListArguments[] = {
    {.name = "CATALOGUE", .help = "only this catalogue, such as routers", .min = 0, .complete = Complete::catalogues}};
constexpr Option kListOptions[] = {
    {.name = "paper", .value = "N", .kind = ValueKind::integer, .help = "only what comes from paper number N"},
    {.name = "taxonomy", .value = "TEXT", .help = "only what has TEXT in its place in the taxonomy"},
    {.name = "names", .help = "only the names, one a line, as 'collegium show' takes them"},
    {.name = "catalogues", .help = "only the names of the catalogues, one a line"},
    {.name = "room",
     .value = "ROOM",
     .help = "the recipes of a room with the verdicts of their last evidence: route, layer, model (in a pipe a line a "
             "verdict; what each should show is in --json)"},
    {.name = "recipes",
     .value = "DIR",
     .help = "with --room: where the rooms' recipes are",
     .default_text = "recipes",
     .complete = Complete::folders},
    {.name = "store",
     .value = "DIR",
     .help = "with --room: where the evidence is",
     .default_text = "docs/evidence",
     .complete = Complete::folders},
};
constexpr Example kListExamples[] = {
    {"collegium list", "every mechanism"},
    {"collegium list --paper 65", "what paper number 65 contributes"},
    {"collegium list --names", "names for a script"},
    {"collegium list --room route", "recipes and their verdicts"},
};

// A terminal wraps verdicts and claim to its width. A pipe gets a line a verdict: all of them in one would be some
// hundred columns wide.
class RoomTable {
 public:
  explicit RoomTable(const Output& out)
      : is_tall_(!out.terminal().is_tty),
        rows_(is_tall_ ? std::vector<std::string>{"paper", "recipe", "status", "verdict"}
                       : std::vector<std::string>{"paper", "recipe", "status", "verdicts", "what it should show"}) {}
  void add(const Recipe& recipe, const std::string& status, const std::vector<std::string>& verdicts) {
    const auto paper = paper_name(recipe.paper);
    if (!is_tall_) return rows_.row({paper, recipe.name, status, join(verdicts, "; "), recipe.claim});
    if (verdicts.empty()) rows_.row({paper, recipe.name, status});
    for (const auto& verdict : verdicts) rows_.row({paper, recipe.name, status, verdict});
  }
  std::string render(const TableStyle& style) const { return rows_.render(style); }

 private:
  bool is_tall_;
  TextTable rows_;
};

int list_room(const Arguments& arguments) {
  auto& out = arguments.out();
  auto& fs = io::real_file_system();
  const io::Path root = arguments.text("recipes"), store = arguments.text("store");
  const auto room = arguments.text("room");
  if (!fs.exists(root / room)) {
    std::vector<std::string> known;
    if (fs.exists(root)) known = fs.list(root);
    throw Error(ErrorKind::usage, text("--room ", room, ": there is no ", (root / room).string()),
                known.empty() ? "run it where recipes/ is, or name the folder with --recipes"
                              : text("rooms here: ", join(known)));
  }
  std::vector<Recipe> recipes;
  for (const auto& file : fs.list(root / room))
    if (file.ends_with(".toml")) recipes.push_back(read_recipe(root / room / file));
  std::stable_sort(recipes.begin(), recipes.end(), [](const auto& a, const auto& b) { return a.paper < b.paper; });
  const auto code = built_from().code;
  RoomTable rows(out);
  auto list = Json::array();
  for (const auto& recipe : recipes) {
    Json row = {{"paper", recipe.paper},       {"recipe", recipe.name},
                {"claim", recipe.claim},       {"recipe_hash", recipe_hash(recipe)},
                {"status", "no evidence yet"}, {"verdicts", Json::array()}};
    std::string status = row["status"].get<std::string>();
    std::vector<std::string> verdicts;
    if (const auto path = store / (recipe.name + ".json"); fs.exists(path)) {
      const auto stored = io::parse_json(io::read_text(fs, path), path.string());
      const auto commits = stored.value("commit", ""), by = stored.value("code", "");
      row["status"] =
          stored.value("recipe_hash", "") == recipe_hash(recipe) ? "measured" : "measured before the recipe changed";
      row["commit"] = commits, row["is_this_code"] = Json();
      if (!by.empty() && !code.empty()) row["is_this_code"] = by == code;
      status = text(row["status"].get<std::string>(), row["is_this_code"] == false ? ", by other code: " : ", by ",
                    short_commits(commits));
      for (const auto& e : stored["expectations"]) {
        Json one = {{"measure", e["measure"]}, {"relation", e["relation"]}, {"verdict", e["verdict"]}};
        // A measure that is expected twice is told by how it must stand.
        const auto same = std::ranges::count_if(stored["expectations"],
                                                [&](const auto& other) { return other["measure"] == e["measure"]; });
        const auto relation = same > 1 ? " " + e["relation"].get<std::string>() : "";
        verdicts.push_back(text(e["measure"].get<std::string>(), relation, ": ", e["verdict"].get<std::string>()));
        row["verdicts"].push_back(std::move(one));
      }
    }
    rows.add(recipe, status, verdicts);
    list.push_back(std::move(row));
  }
  out.block(rows.render(out.table_style()));
  out.json(list);
  return 0;
}

int run_list(const Arguments& arguments) {
  auto& out = arguments.out();
  if (arguments.given("room")) {
    require(arguments.positional("CATALOGUE").empty() && !arguments.given("paper") && !arguments.given("taxonomy") &&
                !arguments.flag("names") && !arguments.flag("catalogues"),
            "--room lists recipes; the other filters are for mechanisms");
    return list_room(arguments);
  }
  EntryFilter filter = {.catalogue = arguments.positional("CATALOGUE"), .taxonomy = arguments.text("taxonomy")};
  if (arguments.given("paper")) filter.paper = static_cast<int>(arguments.integer("paper"));
  const auto all = all_entries();
  const auto entries = filtered(all, filter);

  if (arguments.flag("catalogues")) {
    const auto names = catalogues_of(entries);
    for (const auto& name : names) out.line(name);
    out.json(names);
    return 0;
  }
  if (arguments.flag("names")) {
    const auto names = names_to_type(entries, all);
    for (const auto& name : names) out.line(name);
    out.json(names);
    return 0;
  }
  out.block(entries_text(entries, out.table_style()));
  if (entries.empty()) out.note("nothing matches; 'collegium list' shows everything");
  auto list = Json::array();
  for (const auto& entry : entries) list.push_back(entry_json(entry, false));
  out.json(list);
  return 0;
}

}  // namespace

extern constinit const Command list_command = {
    .name = "list",
    .summary = "list the mechanisms that recipes can name",
    .help =
        "Lists the mechanisms that recipes can name, with the paper each is from. 'collegium show NAME' explains "
        "one of them.",
    .group = "mechanisms",
    .positionals = kListArguments,
    .options = kListOptions,
    .examples = kListExamples,
    .run = run_list,
};

}  // namespace collegium::cli
