// `collegium completion SHELL`: a script that completes commands, options and names.
#include "cli/completion.h"

#include <nlohmann/json.hpp>

namespace collegium::cli {
namespace {

constexpr std::string_view kShells[] = {"bash", "zsh", "fish"};
constexpr Positional kCompletionArguments[] = {{.name = "SHELL", .help = "for which shell", .choices = kShells}};
constexpr Example kCompletionExamples[] = {
    {"collegium completion bash", "the script for bash; source <(collegium completion bash) uses it at once"},
    {"collegium completion fish", "the script for fish; goes to ~/.config/fish/completions/collegium.fish"},
};

int run_completion(const Arguments& arguments) {
  const auto shell = arguments.positional("SHELL");
  const auto script = shell == "bash"  ? bash_completion(arguments.commands())
                      : shell == "zsh" ? zsh_completion(arguments.commands())
                                       : fish_completion(arguments.commands());
  arguments.out().block(script);
  arguments.out().json({{"shell", shell}, {"script", script}});
  return 0;
}

}  // namespace

extern constinit const Command completion_command = {
    .name = "completion",
    .summary = "print a completion script for a shell",
    .help =
        "Prints a script that lets Tab complete commands, options, choices, recipes, runs and the names of "
        "mechanisms. Its first lines say where it goes.",
    .group = "this program",
    .positionals = kCompletionArguments,
    .examples = kCompletionExamples,
    .run = run_completion,
};

}  // namespace collegium::cli
