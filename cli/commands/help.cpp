// `collegium help [COMMAND]`: what --help shows, for those who type it this way round.
#include "cli/help.h"

#include <nlohmann/json.hpp>

#include "cli/parse.h"

namespace collegium::cli {
namespace {

constexpr Positional kHelpArguments[] = {
    {.name = "COMMAND", .help = "the command to explain", .min = 0, .complete = Complete::commands}};
constexpr Example kHelpExamples[] = {{"collegium help doctor", "explain the command doctor"}};

int run_help(const Arguments& arguments) {
  auto& out = arguments.out();
  const auto name = arguments.positional("COMMAND");
  const auto shown = name.empty() ? program_help(arguments.commands(), out.terminal())
                                  : command_help(find_command(arguments.commands(), name), out.terminal());
  out.block(shown);
  out.json({{"help", shown}});
  return 0;
}

}  // namespace

extern constinit const Command help_command = {
    .name = "help",
    .summary = "explain a command",
    .group = "this program",
    .positionals = kHelpArguments,
    .examples = kHelpExamples,
    .run = run_help,
};

}  // namespace collegium::cli
