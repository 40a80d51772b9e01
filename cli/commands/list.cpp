// `collegium list`: which mechanisms there are.
#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "cli/entries.h"
#include "collegium/recipe/catalogues.h"

namespace collegium::cli {
namespace {

constexpr Positional kListArguments[] = {
    {.name = "CATALOGUE", .help = "only this catalogue, such as routers", .min = 0, .complete = Complete::catalogues}};
constexpr Option kListOptions[] = {
    {.name = "paper", .value = "N", .kind = ValueKind::integer, .help = "only what comes from paper number N"},
    {.name = "taxonomy", .value = "TEXT", .help = "only what has TEXT in its place in the taxonomy"},
    {.name = "names", .help = "only the names, one a line, as 'collegium show' takes them"},
    {.name = "catalogues", .help = "only the names of the catalogues, one a line"},
};
constexpr Example kListExamples[] = {
    {"collegium list", "every mechanism"},
    {"collegium list --paper 65", "what paper number 65 contributes"},
    {"collegium list --names", "names for a script"},
};

int run_list(const Arguments& arguments) {
  auto& out = arguments.out();
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
    .help = "Lists the mechanisms that recipes can name, with the paper each is from. 'collegium show NAME' explains "
            "one of them.",
    .group = "mechanisms",
    .positionals = kListArguments,
    .options = kListOptions,
    .examples = kListExamples,
    .run = run_list,
};

}  // namespace collegium::cli
