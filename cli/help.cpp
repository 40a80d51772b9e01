#include "cli/help.h"

#include <torch/version.h>

#include <algorithm>

#include "cli/parse.h"
#include "collegium/base/error.h"

namespace collegium::cli {
namespace {

constexpr size_t kIndent = 2;
constexpr size_t kNameColumn = 26;

std::string bold(const Terminal& terminal, std::string_view what) {
  return terminal.color ? text("\x1b[1m", what, "\x1b[0m") : std::string(what);
}

size_t help_width(const Terminal& terminal) {
  return static_cast<size_t>(std::clamp(terminal.is_tty ? terminal.width : 80, 40, 100));
}

// A name and its help, the help in a column of its own or, below a long name or on a small terminal, on its own line.
std::string two_columns(const Terminal& terminal, const std::string& name, const std::string& help) {
  const auto width = help_width(terminal);
  const auto column = width < 60 ? 2 * kIndent + 2 : kNameColumn;
  auto out = std::string(kIndent, ' ') + name;
  const auto used = kIndent + display_width(name);
  bool first = used + 2 <= column;
  if (!first) out += "\n";
  for (const auto& line : wrap_words(help, width - column)) {
    out += std::string(first ? column - used : column, ' ') + line + "\n";
    first = false;
  }
  return out;
}

std::string usage_text(const Terminal& terminal, const std::string& usage) {
  constexpr std::string_view kLabel = "usage: ";
  std::string out;
  for (const auto& line : wrap_words(usage, help_width(terminal) - kLabel.size()))
    out += (out.empty() ? bold(terminal, "usage:") + " " : std::string(kLabel.size(), ' ')) + line + "\n";
  return out;
}

std::string paragraphs(const Terminal& terminal, std::string_view prose) {
  std::string out;
  for (size_t at = 0; at < prose.size();) {
    const auto end = std::min(prose.find("\n\n", at), prose.size());
    auto paragraph = std::string(prose.substr(at, end - at));
    std::replace(paragraph.begin(), paragraph.end(), '\n', ' ');
    for (const auto& line : wrap_words(paragraph, help_width(terminal))) out += line + "\n";
    at = end + 2;
    if (at < prose.size()) out += "\n";
  }
  return out;
}

std::string option_name(const Option& option) {
  auto out = option.letter != 0 ? text("-", option.letter, ", --", option.name) : text("    --", option.name);
  if (!option.is_flag()) out += text(" ", option.value);
  return out;
}

std::string choices_text(std::span<const std::string_view> choices) {
  return join(std::vector<std::string>(choices.begin(), choices.end()));
}

std::string option_help(const Option& option) {
  std::vector<std::string> notes;
  if (!option.choices.empty()) notes.push_back("one of " + choices_text(option.choices));
  if (!option.default_text.empty()) notes.push_back(text("default ", option.default_text));
  if (option.repeatable) notes.emplace_back("may be repeated");
  if (!option.environment.empty()) notes.push_back(text("environment ", option.environment));
  return notes.empty() ? std::string(option.help) : text(option.help, " (", join(notes, "; "), ")");
}

std::string positional_help(const Positional& positional) {
  return positional.choices.empty() ? std::string(positional.help)
                                    : text(positional.help, " (one of ", choices_text(positional.choices), ")");
}

// The groups in the order in which the commands first name them.
std::vector<std::string_view> groups_of(Commands commands) {
  std::vector<std::string_view> out;
  for (const auto* command : commands)
    if (!command->hidden && std::find(out.begin(), out.end(), command->group) == out.end())
      out.push_back(command->group);
  return out;
}

// Text inside a Markdown table cell.
std::string cell(std::string_view what) {
  std::string out;
  for (const char c : what) out += c == '|' ? std::string("\\|") : std::string(1, c);
  return out;
}

std::string option_row(const Option& option) {
  const auto letter = option.letter != 0 ? text("`-", option.letter, "`, ") : std::string();
  const auto value = option.is_flag() ? std::string() : text(" ", option.value);
  return text("| ", letter, "`--", option.name, value, "` | ", cell(option.help),
              option.choices.empty() ? "" : text("; one of ", cell(choices_text(option.choices))),
              option.repeatable ? "; may be repeated" : "", " | ",
              option.default_text.empty() ? "" : text("`", cell(option.default_text), "`"), " | ",
              option.environment.empty() ? "" : text("`", option.environment, "`"), " |\n");
}

constexpr std::string_view kOptionTable = "| Option | Meaning | Default | Environment |\n| --- | --- | --- | --- |\n";

}  // namespace

std::string version_text() {
  return text("collegium ", COLLEGIUM_VERSION, " (torch ", TORCH_VERSION, ")");
}

std::string program_help(Commands commands, const Terminal& terminal) {
  auto out = usage_text(terminal, "collegium COMMAND [options]") + "\n" +
             paragraphs(terminal, "Mixture-of-experts models: design, train, generate, explain.");
  for (const auto& group : groups_of(commands)) {
    out += "\n" + bold(terminal, text(group.empty() ? "commands" : group, ":")) + "\n";
    for (const auto* command : commands)
      if (!command->hidden && command->group == group)
        out += two_columns(terminal, std::string(command->name), std::string(command->summary));
  }
  out += "\n" + bold(terminal, "options:") + "\n";
  for (const auto& option : common_options()) out += two_columns(terminal, option_name(option), option_help(option));
  out += two_columns(terminal, "    --version", "show the versions of collegium and of torch");
  out += "\n" + paragraphs(terminal, "'collegium COMMAND --help' explains a command.");
  return out;
}

std::string command_help(const Command& command, const Terminal& terminal) {
  auto out = usage_text(terminal, usage_line(command)) + "\n" +
             paragraphs(terminal, command.help.empty() ? command.summary : command.help);
  if (!command.positionals.empty()) out += "\n" + bold(terminal, "arguments:") + "\n";
  for (const auto& positional : command.positionals)
    out += two_columns(terminal, std::string(positional.name), positional_help(positional));
  if (!command.options.empty()) out += "\n" + bold(terminal, "options:") + "\n";
  for (const auto& option : command.options) out += two_columns(terminal, option_name(option), option_help(option));
  out += "\n" + bold(terminal, "common options:") + "\n";
  for (const auto& option : common_options()) out += two_columns(terminal, option_name(option), option_help(option));
  if (!command.examples.empty()) out += "\n" + bold(terminal, "examples:") + "\n";
  for (const auto& example : command.examples)
    out += text("  ", example.line, "\n", std::string(6, ' '), example.what, "\n");
  return out;
}

std::string commands_markdown(Commands commands) {
  std::string out =
      "# The command line\n\n"
      "Written by `collegium docs cli` from the tables of the commands; do not edit.\n\n"
      "Exit codes: 0 done, 2 wrong arguments or configuration, 3 refused (it would not fit, or would not continue the "
      "same run), 4 unreadable or wrong data, 5 a file could not be read or written, 70 a bug, 130 interrupted.\n\n"
      "A variable `COLLEGIUM_…` stands in for an option that is not on the command line; several values of a "
      "repeatable option are parted by `;`.\n\n"
      "## Options of every command\n\n";
  out += kOptionTable;
  for (const auto& option : common_options()) out += option_row(option);
  out += "\n";
  for (const auto* command : commands) {
    if (command->hidden) continue;
    out += text("## collegium ", command->name, "\n\n`", usage_line(*command), "`\n\n",
                command->help.empty() ? command->summary : command->help, "\n\n");
    if (!command->positionals.empty()) out += "| Argument | Meaning |\n| --- | --- |\n";
    for (const auto& positional : command->positionals)
      out += text("| `", positional.name, "` | ", cell(positional_help(positional)), " |\n");
    if (!command->positionals.empty()) out += "\n";
    if (!command->options.empty()) out += kOptionTable;
    for (const auto& option : command->options) out += option_row(option);
    if (!command->options.empty()) out += "\n";
    if (!command->examples.empty()) out += "```sh\n";
    for (const auto& example : command->examples) out += text("# ", example.what, "\n", example.line, "\n");
    if (!command->examples.empty()) out += "```\n\n";
  }
  while (out.ends_with("\n\n")) out.pop_back();
  return out;
}

}  // namespace collegium::cli
