// `collegium docs WHAT`: pages of the documentation that follow from tables. Hidden: for those who build the docs.
#include <nlohmann/json.hpp>

#include "cli/entries.h"
#include "cli/help.h"
#include "collegium/recipe/catalogues.h"

namespace collegium::cli {
namespace {

constexpr std::string_view kDocsPages[] = {"cli", "mechanisms"};
constexpr Positional kDocsArguments[] = {{.name = "PAGE", .help = "which page", .choices = kDocsPages}};
constexpr Example kDocsExamples[] = {{"collegium docs cli", "what docs/cli.md holds"}};

int run_docs(const Arguments& arguments) {
  const auto page = arguments.positional("PAGE");
  const auto markdown = page == "cli" ? commands_markdown(arguments.commands()) : entries_markdown(all_entries());
  arguments.out().block(markdown);
  arguments.out().json({{"page", page}, {"markdown", markdown}});
  return 0;
}

}  // namespace

extern constinit const Command docs_command = {
    .name = "docs",
    .summary = "print a generated page of the documentation as Markdown",
    .group = "this program",
    .positionals = kDocsArguments,
    .examples = kDocsExamples,
    .hidden = true,
    .run = run_docs,
};

}  // namespace collegium::cli
