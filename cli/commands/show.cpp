// `collegium show NAME`: everything that a mechanism says of itself.
#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "cli/entries.h"
#include "collegium/recipe/catalogues.h"

namespace collegium::cli {
namespace {

constexpr Positional kShowArguments[] = {{.name = "NAME",
                                          .help = "a mechanism, or CATALOGUE/NAME where several share the name",
                                          .complete = Complete::entries}};
constexpr Example kShowExamples[] = {
    {"collegium show routers/top_k", "what the router top_k is and which fields it has"}};

int run_show(const Arguments& arguments) {
  auto& out = arguments.out();
  const auto entries = all_entries();
  const auto& entry = find_entry(entries, arguments.positional("NAME"));
  out.block(entry_text(entry, out.table_style()));
  out.json(entry_json(entry, true));
  return 0;
}

}  // namespace

extern constinit const Command show_command = {
    .name = "show",
    .summary = "explain a mechanism and its fields",
    .help =
        "Shows a mechanism's equation, where it comes from, what it claims (and the tests hold it to), and every field "
        "that a recipe can set: type, default, unit and what is allowed.",
    .group = "mechanisms",
    .positionals = kShowArguments,
    .examples = kShowExamples,
    .run = run_show,
};

}  // namespace collegium::cli
