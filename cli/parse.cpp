#include "cli/parse.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cmath>

#include "collegium/base/error.h"

namespace collegium::cli {
namespace {

std::vector<const Option*> options_of(const Command& command) {
  std::vector<const Option*> out;
  for (const auto& option : command.options) out.push_back(&option);
  for (const auto& option : common_options()) out.push_back(&option);
  return out;
}

std::string help_hint(const Command& command) {
  return text("see 'collegium ", command.name, " --help'");
}

Error usage_error(const std::string& message, const std::string& hint) {
  return Error(ErrorKind::usage, message, hint);
}

bool is_option_word(const std::string& word) {
  return word.size() > 1 && word[0] == '-';
}

// "--seed" of "--seed=3".
std::string without_value(const std::string& word) {
  return word.substr(0, word.find('='));
}

Error unknown_option(const Command* command, const std::string& word, const std::vector<const Option*>& known) {
  std::vector<std::string> names;
  for (const auto* option : known) names.push_back(text("--", option->name));
  const auto near = nearest(without_value(word), names);
  const auto who = command ? text(command->name, ": ") : std::string();
  const auto where = command ? help_hint(*command) : std::string("see 'collegium --help'");
  return usage_error(text(who, "unknown option '", without_value(word), "'"),
                     near.empty() ? where : text("did you mean '", near, "'? ", where));
}

std::string_view without_plus(const std::string& word) {
  return std::string_view(word).substr(word.starts_with('+') && !word.starts_with("+-") ? 1 : 0);
}

template <class T>
bool reads_as(const std::string& word) {
  const auto digits = without_plus(word);
  T value = 0;
  const auto [stop, problem] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (problem != std::errc() || stop != digits.data() + digits.size()) return false;
  return std::isfinite(static_cast<double>(value));
}

void check_choice(const std::string& who, std::span<const std::string_view> choices, const std::string& value,
                  const std::string& hint) {
  if (choices.empty()) return;
  const std::vector<std::string> known(choices.begin(), choices.end());
  if (std::find(known.begin(), known.end(), value) != known.end()) return;
  const auto near = nearest(value, known);
  throw usage_error(text(who, ": must be one of ", join(known), "; got '", value, "'"),
                    near.empty() ? hint : text("did you mean '", near, "'?"));
}

// `origin` is "--seed" or "COLLEGIUM_SEED": the name that the user typed.
void check_value(const Command& command, const Option& option, const std::string& origin, const std::string& value) {
  const auto who = text(command.name, ": ", origin);
  const auto wanted = option.kind == ValueKind::integer ? "an integer" : "a number";
  const bool ok = option.kind == ValueKind::text || (option.kind == ValueKind::integer && reads_as<int64_t>(value)) ||
                  (option.kind == ValueKind::number && reads_as<double>(value));
  if (!ok) throw usage_error(text(who, ": must be ", wanted, ", got '", value, "'"), help_hint(command));
  check_choice(who, option.choices, value, help_hint(command));
}

void check_not_an_option(const Command& command, const Option& option, const std::string& value,
                         const std::vector<const Option*>& known) {
  if (!value.starts_with("--")) return;
  for (const auto* other : known)
    if (without_value(value) == text("--", other->name))
      throw usage_error(text(command.name, ": --", option.name, " needs a value (", option.value, "), but the option '",
                             value, "' follows"),
                        text("write --", option.name, "=", value, " if that is meant to be the value"));
}

bool flag_from_environment(const Command& command, const Option& option, const std::string& value) {
  for (const auto* yes : {"1", "true", "yes", "on"})
    if (value == yes) return true;
  for (const auto* no : {"0", "false", "no", "off"})
    if (value == no) return false;
  throw usage_error(text(command.name, ": ", option.environment, ": must be 1 or 0, got '", value, "'"),
                    help_hint(command));
}

std::vector<std::string> split_list(const std::string& list) {
  std::vector<std::string> out;
  for (size_t at = 0; at <= list.size();) {
    const auto end = std::min(list.find(';', at), list.size());
    if (end > at) out.push_back(list.substr(at, end - at));
    at = end + 1;
  }
  return out;
}

Arguments::Value from_environment_or_default(const Command& command, const Option& option,
                                             const Environment& environment) {
  using Source = Arguments::Source;
  if (!option.environment.empty()) {
    const auto value = environment(option.environment);
    if (!value.empty() && option.is_flag()) {
      if (flag_from_environment(command, option, value)) return {{"true"}, Source::environment};
    } else if (!value.empty()) {
      auto values = option.repeatable ? split_list(value) : std::vector<std::string>{value};
      for (const auto& one : values) check_value(command, option, std::string(option.environment), one);
      return {std::move(values), Source::environment};
    }
  }
  if (!option.default_text.empty()) return {{std::string(option.default_text)}, Source::default_text};
  return {};
}

// Positionals are shared out here: CLI11 hands over what belongs to no option, "--" included.
std::vector<std::string> positional_words(const Command& command, const std::vector<std::string>& rest,
                                          const std::vector<const Option*>& known) {
  std::vector<std::string> out;
  bool only_positionals = false;
  for (const auto& word : rest) {
    if (!only_positionals && word == "--") {
      only_positionals = true;
      continue;
    }
    if (!only_positionals && is_option_word(word)) throw unknown_option(&command, word, known);
    out.push_back(word);
  }
  return out;
}

void share_positionals(const Command& command, const std::vector<std::string>& words, Arguments& arguments) {
  size_t at = 0;
  for (const auto& positional : command.positionals) {
    const auto left = words.size() - at;
    const auto most = positional.max == kUnlimited ? left : std::min(left, static_cast<size_t>(positional.max));
    if (most < static_cast<size_t>(positional.min))
      throw usage_error(text(command.name, ": ", positional.name, " is missing: ", positional.help),
                        text("usage: ", usage_line(command)));
    const auto begin = words.begin() + static_cast<std::ptrdiff_t>(at);
    std::vector<std::string> values(begin, begin + static_cast<std::ptrdiff_t>(most));
    for (const auto& value : values)
      check_choice(text(command.name, ": ", positional.name), positional.choices, value, help_hint(command));
    arguments.set_positional(positional.name, std::move(values));
    at += most;
  }
  if (at < words.size())
    throw usage_error(text(command.name, ": unexpected argument '", words[at], "'"),
                      text("usage: ", usage_line(command)));
}

// What CLI11 refuses by itself: a value that is missing, or one that a flag does not take.
Error rephrased(const Command& command, const CLI::ParseError& problem, const std::vector<const Option*>& known) {
  const std::string what = problem.what();
  for (const auto* option : known) {
    const auto dashed = text("--", option->name);
    // CLI11 names an option with its dashes in some messages and without them in others.
    if (!what.starts_with(dashed + ":") && !what.starts_with(text(option->name, " "))) continue;
    return usage_error(option->is_flag() ? text(command.name, ": ", dashed, " takes no value")
                                         : text(command.name, ": ", dashed, " needs a value (", option->value, ")"),
                       help_hint(command));
  }
  return usage_error(text(command.name, ": ", what), help_hint(command));
}

}  // namespace

Split split_command_line(const std::vector<std::string>& args) {
  Split split;
  std::vector<const Option*> known;
  for (const auto& option : common_options()) known.push_back(&option);
  static constexpr Option kVersion = {.name = "version", .help = ""};
  known.push_back(&kVersion);
  for (size_t i = 0; i < args.size(); ++i) {
    if (!is_option_word(args[i])) {
      split.command = args[i];
      split.words.insert(split.words.end(), args.begin() + static_cast<std::ptrdiff_t>(i) + 1, args.end());
      return split;
    }
    const auto is_known = std::any_of(known.begin(), known.end(), [&](const Option* option) {
      return args[i] == text("--", option->name) || (option->letter != 0 && args[i] == text("-", option->letter));
    });
    if (!is_known) throw unknown_option(nullptr, args[i], known);
    if (args[i] == "--version")
      split.version = true;
    else if (args[i] == "--help" || args[i] == "-h")
      split.help = true;
    else
      split.words.push_back(args[i]);
  }
  return split;
}

const Command& find_command(Commands commands, std::string_view name) {
  std::vector<std::string> known;
  for (const auto* command : commands) {
    if (command->name == name) return *command;
    if (!command->hidden) known.emplace_back(command->name);
  }
  const auto near = nearest(name, known);
  throw usage_error(text("unknown command '", name, "'"),
                    near.empty() ? "'collegium --help' lists the commands" : text("did you mean '", near, "'?"));
}

bool has_common_flag(const std::vector<std::string>& words, std::string_view name) {
  for (const auto& word : words) {
    if (word == "--") return false;
    if (word == text("--", name) || word == text("--", name, "=true") || (name == "help" && word == "-h")) return true;
  }
  return false;
}

void parse_words(const std::vector<std::string>& words, Arguments& arguments) {
  const auto& command = arguments.command();
  const auto known = options_of(command);

  const auto end_of_options = std::find(words.begin(), words.end(), "--");
  CLI::App app;
  app.set_help_flag();
  app.allow_extras();
  std::vector<std::pair<const Option*, CLI::Option*>> parsed;
  for (const auto* option : known) {
    const auto names = option->letter != 0 ? text("-", option->letter, ",--", option->name) : text("--", option->name);
    // Without a variable to fill, CLI11 converts nothing: the words are read from results() and judged below.
    auto* made = option->is_flag() ? app.add_flag(names)->disable_flag_override()
                                   : app.add_option(names)->expected(1)->allow_extra_args(false)->multi_option_policy(
                                         CLI::MultiOptionPolicy::TakeAll);
    parsed.emplace_back(option, made);
    // CLI11 reads "--name=" as "--name" and would swallow the next word.
    if (!option->is_flag() && std::find(words.begin(), end_of_options, text("--", option->name, "=")) != end_of_options)
      throw usage_error(text(command.name, ": --", option->name, " needs a value (", option->value, ")"),
                        help_hint(command));
  }
  try {
    app.parse(std::vector<std::string>(words.rbegin(), words.rend()));
  } catch (const CLI::ParseError& problem) {
    throw rephrased(command, problem, known);
  }

  // Unknown options first: a mistyped one explains a surplus argument or a missing value better than those do.
  const auto positionals = positional_words(command, app.remaining(), known);
  for (const auto& [option, made] : parsed) {
    if (made->count() == 0) {
      arguments.set_option(option->name,
                           from_environment_or_default(command, *option, arguments.streams().environment));
      continue;
    }
    const auto& values = made->results();
    if (!option->is_flag() && !option->repeatable && values.size() > 1)
      throw usage_error(text(command.name, ": --", option->name, " was given ", values.size(), " times ('",
                             join(values, "', '"), "')"),
                        "give it once");
    if (!option->is_flag())
      for (const auto& value : values) {
        if (std::find(words.begin(), words.end(), value) != words.end())
          check_not_an_option(command, *option, value, known);
        check_value(command, *option, text("--", option->name), value);
      }
    arguments.set_option(option->name, {values, Arguments::Source::command_line});
  }
  share_positionals(command, positionals, arguments);
}

std::string usage_line(const Command& command) {
  auto out = text("collegium ", command.name, " [options]");
  for (const auto& positional : command.positionals) {
    const auto more = positional.max == 1 ? "" : "…";
    out += positional.min == 0 ? text(" [", positional.name, more, "]") : text(" ", positional.name, more);
  }
  return out;
}

}  // namespace collegium::cli
