// `collegium compare`: several runs on one page.
#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

#include "cli/setting.h"
#include "collegium/base/text_table.h"
#include "collegium/inspect/page.h"
#include "collegium/io/json.h"
#include "collegium/recipe/leaderboard.h"
#include "collegium/recipe/plan.h"

namespace collegium::cli {
namespace {

constexpr Positional kCompareArguments[] = {
    {.name = "RUN",
     .help = "runs to compare; those that differ only in their seed form a group",
     .min = 0,
     .max = kUnlimited,
     .complete = Complete::runs}};
constexpr std::string_view kRooms[] = {"route", "layer"};
constexpr Option kCompareOptions[] = {
    {.name = "out",
     .letter = 'o',
     .value = "FILE",
     .help = "the page",
     .default_text = "compare.html",
     .complete = Complete::files},
    {.name = "label", .value = "NAME", .help = "name of a group, in the order of the runs", .repeatable = true},
    {.name = "title", .value = "TEXT", .help = "title of the page", .default_text = "Comparison"},
    {.name = "room",
     .value = "ROOM",
     .help =
         "instead of runs: train every recipe of recipes/ROOM on one task, head to head (layer: also those of other "
         "rooms that are about layers)",
     .choices = kRooms},
    {.name = "recipes",
     .value = "DIR",
     .help = "where the rooms' recipes are",
     .default_text = "recipes",
     .complete = Complete::folders},
    {.name = "also",
     .value = "RECIPE",
     .help = "with --room: one more recipe that takes part",
     .repeatable = true,
     .complete = Complete::recipes},
    {.name = "reference",
     .value = "RECIPE",
     .help = "the recipe whose task, steps and seeds count for --room",
     .default_text = "recipes/route/top_k.toml",
     .complete = Complete::recipes},
    {.name = "store",
     .value = "DIR",
     .help = "with --room: keep the table, picture and numbers here",
     .default_text = "docs",
     .complete = Complete::folders},
    {.name = "seeds",
     .value = "N",
     .kind = ValueKind::integer,
     .help = "with --room: only the first N seeds; 0 = all",
     .default_text = "0"},
    {.name = "any-code",
     .help = "with --room: finished runs of other versions of the code count, too (the table names their commits)"},
    kRunsOption,
    kDeviceOption,
    kThreadsOption,
    kOfflineOption,
};
constexpr Example kCompareExamples[] = {
    {"collegium compare tiny_moe-s1 tiny_moe-s2 dense-s1 dense-s2 --label moe --label dense", "two groups, two seeds"},
    {"collegium compare --room route --runs runs/evidence", "the leaderboard of all routers"},
    {"collegium compare --room layer --runs runs/evidence", "the architect's report"}};

std::string cell_text(const nlohmann::json& value) {
  if (value.is_null()) return "-";
  const auto spread = value["n"].get<int>() > 1 ? " ± " + significant_text(value["std"].get<double>(), 2) : "";
  return significant_text(value["mean"].get<double>(), 5) + spread;
}

std::vector<Recipe> recipes_in(const io::Path& folder) {
  auto& fs = io::real_file_system();
  std::vector<Recipe> out;
  for (const auto& file : fs.list(folder))
    if (file.ends_with(".toml")) out.push_back(read_recipe(folder / file));
  return out;
}

// The room's recipes, and of the other rooms beside it those that are about layers, if the board is.
std::vector<Recipe> recipes_of_room(const io::Path& root, const std::string& room, Board board,
                                    const Recipe& reference) {
  auto out = recipes_in(root / room);
  if (out.empty()) fail(ErrorKind::usage, (root / room).string(), ": no recipe here");
  if (board == Board::layer)
    for (const auto& other : io::real_file_system().list(root)) {
      if (other == room || !std::filesystem::is_directory(root / other)) continue;
      for (auto& recipe : recipes_in(root / other))
        if (is_about_layers(recipe, reference)) out.push_back(std::move(recipe));
    }
  return out;
}

// What one way of comparing does not read must not be given: it would look as if it did something.
void refuse_options(const Arguments& arguments, std::initializer_list<std::string_view> names, std::string_view what) {
  for (const auto name : names) require(arguments.source(name) != Arguments::Source::command_line, "--", name, what);
}

int compare_room(const Arguments& arguments) {
  auto& out = arguments.out();
  auto& fs = io::real_file_system();
  require(arguments.positionals("RUN").empty(), "give runs or --room, not both");
  refuse_options(arguments, {"out", "label", "title"}, " is of the page of runs; --room writes its table into --store");
  apply_threads(arguments);
  const InterruptFlag interrupt;
  const auto progress = arguments.progress();
  const auto setting = run_setting(arguments, &interrupt, progress.get());
  auto reference = read_recipe(arguments.text("reference"));
  const auto n_seeds = arguments.integer("seeds");
  require(n_seeds >= 0 && n_seeds <= static_cast<int64_t>(reference.seeds.size()), "--seeds ", n_seeds,
          ": the reference has ", reference.seeds.size(), reference.seeds.size() == 1 ? " seed" : " seeds");
  if (n_seeds > 0) reference.seeds.resize(static_cast<size_t>(n_seeds));
  const auto kind = arguments.text("room") == "layer" ? Board::layer : Board::route;
  auto recipes = recipes_of_room(arguments.text("recipes"), arguments.text("room"), kind, reference);
  for (const auto& path : arguments.all("also")) recipes.push_back(read_recipe(path));
  for (const auto& recipe : recipes) require_buildable(recipe, setting);
  require_writable_folder(arguments, "store");
  std::sort(recipes.begin(), recipes.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  const auto reuse = arguments.flag("any-code") ? Reuse::any_code : Reuse::this_code;
  const auto board =
      gather_leaderboard(kind, reference, recipes, setting, reuse, [&](const std::string& line) { out.note(line); });
  const auto data = leaderboard_json(board, setting);
  const io::Path store = arguments.text("store");
  const std::string name(leaderboard_file(kind));
  io::write_atomically(fs, store / (name + ".md"), io::as_bytes(leaderboard_markdown(data)));
  io::write_atomically(fs, store / (name + ".svg"), io::as_bytes(leaderboard_svg(data)));
  io::write_atomically(fs, store / (name + ".json"), io::as_bytes(io::dump_json(data, 1) + "\n"));
  const auto lines = leaderboard_lines(data);
  TextTable rows(lines.front());
  for (size_t i = 1; i < lines.size(); ++i) rows.row(lines[i]);
  out.block(rows.render(out.table_style()));
  out.line(text("table: ", (store / (name + ".md")).string()));
  out.json(Json::parse(data.dump()));
  return 0;
}

int run_compare(const Arguments& arguments) {
  auto& out = arguments.out();
  if (arguments.given("room")) return compare_room(arguments);
  require(!arguments.positionals("RUN").empty(), "name at least one run, or --room");
  refuse_options(arguments, {"recipes", "also", "reference", "store", "seeds", "any-code"}, " goes with --room");
  require_writable_file(arguments, "out");
  std::vector<io::Path> folders;
  for (const auto& word : arguments.positionals("RUN")) folders.push_back(run_folder(arguments, word));
  auto data = compare_data(folders, arguments.all("label"));
  data["title"] = arguments.text("title");
  if (!data["left_out"].empty())
    out.warn(text("left out, since runs of the same configuration and seed are there already: ",
                  join(data["left_out"].get<std::vector<std::string>>())));
  io::write_atomically(io::real_file_system(), arguments.text("out"), io::as_bytes(compare_page(data)));

  std::vector<std::string> header = {"measure"};
  for (const auto& g : data["groups"])
    header.push_back(text(g["name"].get<std::string>(), " (", g["runs"].size(), ")"));
  TextTable rows(header);
  for (size_t column = 1; column < header.size(); ++column) rows.align(column, Align::right);
  for (const auto& line : data["table"]) {
    const auto unit = line["unit"].get<std::string>();
    std::vector<std::string> cells = {line["measure"].get<std::string>() + (unit.empty() ? "" : ", " + unit)};
    for (const auto& value : line["values"]) cells.push_back(cell_text(value));
    rows.row(cells);
  }
  out.block(rows.render(out.table_style()));
  out.line(text("page: ", arguments.text("out")));
  out.json({{"page", arguments.text("out")},
            {"table", Json::parse(data["table"].dump())},
            {"differences", Json::parse(data["differences"].dump())}});
  return 0;
}

}  // namespace

extern constinit const Command compare_command = {
    .name = "compare",
    .summary = "compare runs on one page, same axes, with seeds and spread",
    .help =
        "Runs with equal configuration, seeds aside, form a group: a thin line a seed, a thick one for the mean. With "
        "--room, the "
        "leaderboard of routers or the architect's report on layers: every recipe of a room whose task is the "
        "reference's is trained over the same seeds (finished "
        "runs "
        "of this commit are used again) and stands in one table with what it sacrifices. Layers stand in one table for "
        "each budget of work, beside the baselines that were sized to theirs.",
    .group = "train and use",
    .positionals = kCompareArguments,
    .options = kCompareOptions,
    .examples = kCompareExamples,
    .run = run_compare,
};

}  // namespace collegium::cli
