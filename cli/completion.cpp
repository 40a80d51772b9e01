#include "cli/completion.h"

#include <algorithm>

#include "collegium/base/error.h"

namespace collegium::cli {
namespace {

std::vector<const Command*> shown(Commands commands) {
  std::vector<const Command*> out;
  for (const auto* command : commands)
    if (!command->hidden) out.push_back(command);
  return out;
}

std::vector<const Option*> offered_options(const Command& command) {
  std::vector<const Option*> out;
  for (const auto& option : command.options) out.push_back(&option);
  for (const auto& option : common_options()) out.push_back(&option);
  return out;
}

std::string spaced(std::span<const std::string_view> words) {
  return join(std::vector<std::string>(words.begin(), words.end()), " ");
}

// What completes a value, as one word that the scripts switch on.
std::string source_name(Complete complete, std::span<const std::string_view> choices) {
  if (!choices.empty()) return "choices:" + spaced(choices);
  switch (complete) {
    case Complete::nothing:
    case Complete::choices:
      return "nothing";
    case Complete::files:
      return "files";
    case Complete::folders:
      return "folders";
    case Complete::recipes:
      return "recipes";
    case Complete::runs:
      return "runs";
    case Complete::catalogues:
      return "catalogues";
    case Complete::entries:
      return "entries";
    case Complete::datasets:
      return "datasets";
    case Complete::commands:
      return "commands";
  }
  return "nothing";
}

// The words that a shell function calls to list the names of `source`; "" when it has none.
struct NameQuery {
  std::string_view source, arguments;
};
constexpr NameQuery kNameQueries[] = {{"runs", "runs --ids"},
                                      {"catalogues", "list --catalogues"},
                                      {"entries", "list --names"},
                                      {"datasets", "data list --names"}};

std::string names_of(const std::vector<const Command*>& commands) {
  std::vector<std::string> out;
  for (const auto* command : commands) out.emplace_back(command->name);
  return join(out, " ");
}

// 'it'\''s'
std::string shell_quoted(std::string_view what) {
  std::string out = "'";
  for (const char c : what) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

// Inside zsh's _arguments and _describe, brackets and colons have a meaning of their own.
std::string zsh_escaped(std::string_view what) {
  std::string out;
  for (const char c : what) {
    if (c == '[' || c == ']' || c == ':' || c == '\\') out += '\\';
    out += c;
  }
  return out;
}

std::string fish_quoted(std::string_view what) {
  std::string out = "'";
  for (const char c : what) {
    if (c == '\'' || c == '\\') out += '\\';
    out += c;
  }
  return out + "'";
}

std::string zsh_action(const std::string& source) {
  if (source.starts_with("choices:")) return text("(", source.substr(8), ")");
  if (source == "nothing") return " ";
  if (source == "files") return "_files";
  if (source == "folders") return "_files -/";
  return text("_collegium_", source);
}

std::string zsh_option(const Option& option) {
  const auto help = text("[", zsh_escaped(option.help), "]");
  const auto value = option.is_flag() ? std::string()
                                      : text(":", zsh_escaped(option.value), ":",
                                             zsh_action(source_name(option.complete, option.choices)));
  const auto equals = option.is_flag() ? "" : "=";
  const auto star = option.repeatable ? "*" : "";
  if (option.letter == 0) return shell_quoted(text(star, "--", option.name, equals, help, value));
  const auto others = option.repeatable ? std::string("*") : text("(-", option.letter, " --", option.name, ")");
  return text(shell_quoted(others), "{-", option.letter, ",--", option.name, equals, "}", shell_quoted(help + value));
}

}  // namespace

std::string bash_completion(Commands commands) {
  const auto all = shown(commands);
  std::string options, values, arguments;
  for (const auto* command : all) {
    std::vector<std::string> words;
    for (const auto* option : offered_options(*command)) {
      words.push_back(text("--", option->name));
      if (option->is_flag()) continue;
      const auto short_form = option->letter != 0 ? text("|'", command->name, " -", option->letter, "'") : "";
      values += text("    '", command->name, " --", option->name, "'", short_form, ") echo ",
                     shell_quoted(source_name(option->complete, option->choices)), " ;;\n");
    }
    options += text("    ", command->name, ") echo ", shell_quoted(join(words, " ")), " ;;\n");
    for (size_t i = 0; i < command->positionals.size(); ++i) {
      const auto& positional = command->positionals[i];
      const auto index = positional.max == 1 ? text("'", command->name, " ", i, "'") : text("'", command->name, " '*");
      const auto source = source_name(positional.complete, positional.choices);
      arguments += text("    ", index, ") echo ", shell_quoted(source), " ;;\n");
    }
  }
  std::string queries;
  for (const auto& [source, words] : kNameQueries)
    queries += text("    ", source, ") names=$(\"$program\" ", words, " 2>/dev/null) ;;\n");
  return text(R"sh(# Completion of collegium for bash. Put this line into ~/.bashrc:
#   source <(collegium completion bash)

# COMMAND -> its options
_collegium_options() {
  case "$1" in
)sh",
              options, R"sh(  esac
}

# "COMMAND OPTION" -> what completes its value; nothing for a flag
_collegium_value() {
  case "$1 $2" in
)sh",
              values, R"sh(  esac
}

# "COMMAND INDEX" -> what completes that argument
_collegium_argument() {
  case "$1 $2" in
)sh",
              arguments, R"sh(  esac
}

# Fills COMPREPLY from a source for the word begun.
_collegium_offer() {
  local source=$1 begun=$2 program=$3 names=""
  case "$source" in
    choices:*) names=${source#choices:} ;;
    commands) names=')sh",
              names_of(all), R"sh(' ;;
)sh",
              queries, R"sh(    recipes) names=$(find recipes presets -name '*.toml' 2>/dev/null) ;;
    folders) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -d -- "$begun"); return ;;
  esac
  [[ -n $names ]] && mapfile -t COMPREPLY < <(compgen -W "$names" -- "$begun")
  if [[ $source == files || ($source == recipes && ${#COMPREPLY[@]} -eq 0) ]]; then
    compopt -o filenames 2>/dev/null
    mapfile -t COMPREPLY < <(compgen -f -- "$begun")
  fi
}

_collegium() {
  local current=${COMP_WORDS[COMP_CWORD]} command="" option="" count=0 only_arguments="" i word
  COMPREPLY=()
  for ((i = 1; i < COMP_CWORD; i++)); do
    word=${COMP_WORDS[i]}
    if [[ -n $option ]]; then
      # bash parts --name=value into three words
      [[ $word == "=" ]] || option=""
    elif [[ -z $command ]]; then
      [[ $word == -* ]] || command=$word
    elif [[ $word == "--" && -z $only_arguments ]]; then
      only_arguments=yes
    elif [[ $word == -* && -z $only_arguments ]]; then
      [[ -n $(_collegium_value "$command" "$word") ]] && option=$word
    else
      ((++count))
    fi
  done
  if [[ -n $option ]]; then
    [[ $current == "=" ]] && current=""
    _collegium_offer "$(_collegium_value "$command" "$option")" "$current" "${COMP_WORDS[0]}"
  elif [[ -z $command ]]; then
    mapfile -t COMPREPLY < <(compgen -W ')sh",
              names_of(all), R"sh( --help --version' -- "$current")
  elif [[ $current == -* && -z $only_arguments ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$(_collegium_options "$command")" -- "$current")
  else
    _collegium_offer "$(_collegium_argument "$command" "$count")" "$current" "${COMP_WORDS[0]}"
  fi
}

complete -F _collegium collegium
)sh");
}

std::string zsh_completion(Commands commands) {
  const auto all = shown(commands);
  std::string described, cases, queries;
  for (const auto* command : all) {
    described += text("    ", shell_quoted(text(command->name, ":", zsh_escaped(command->summary))), "\n");
    cases += text("        ", command->name, ")\n          _arguments -s -S \\\n");
    for (const auto* option : offered_options(*command)) cases += text("            ", zsh_option(*option), " \\\n");
    for (size_t i = 0; i < command->positionals.size(); ++i) {
      const auto& positional = command->positionals[i];
      const auto index = positional.max == 1 ? text(i + 1, positional.min == 0 ? ":" : "") : std::string("*");
      cases += text("            ",
                    shell_quoted(text(index, ":", positional.name, ":",
                                      zsh_action(source_name(positional.complete, positional.choices)))),
                    " \\\n");
    }
    cases += "            && return 0\n          ;;\n";
  }
  for (const auto& [source, words] : kNameQueries)
    queries += text("_collegium_", source, "() {\n  local -a names=(${(f)\"$($_collegium_program ", words,
                    " 2>/dev/null)\"})\n  compadd -a names\n}\n\n");
  return text(R"sh(#compdef collegium
# Completion of collegium for zsh. Put this line into ~/.zshrc, after compinit:
#   source <(collegium completion zsh)

_collegium_commands() {
  local -a commands=(
)sh",
              described, R"sh(  )
  _describe command commands
}

)sh",
              queries, R"sh(_collegium_recipes() {
  local -a names=(recipes/**/*.toml(N) presets/**/*.toml(N))
  (( $#names )) && compadd -a names || _files
}

_collegium() {
  local context state state_descr line
  typeset -A opt_args
  local _collegium_program=${(Q)words[1]}
  _arguments -C -S '--help[show help]' '--version[show the version]' \
    '1:command:_collegium_commands' '*::argument:->argument'
  case $state in
    argument)
      case $words[1] in
)sh",
              cases, R"sh(      esac
      ;;
  esac
}

compdef _collegium collegium
)sh");
}

std::string fish_completion(Commands commands) {
  const auto all = shown(commands);
  std::string values, lines;
  const auto offer = [](const std::string& source) {
    if (source == "files") return std::string(" -F");
    if (source == "nothing") return std::string();
    if (source == "recipes") return std::string(" -F -a '(__collegium_recipes)'");
    if (source == "folders") return std::string(" -a '(__fish_complete_directories)'");
    if (source.starts_with("choices:")) return text(" -a ", fish_quoted(source.substr(8)));
    return text(" -a '(__collegium_", source, ")'");
  };
  for (const auto* command : all) {
    const auto when = text("complete -c collegium -n ", fish_quoted(text("__collegium_in ", command->name)));
    std::vector<std::string> taking;
    lines += text("\ncomplete -c collegium -n '__collegium_in' -a ", command->name, " -d ",
                  fish_quoted(command->summary), "\n");
    for (const auto* option : offered_options(*command)) {
      const auto source = option->is_flag() ? std::string() : offer(source_name(option->complete, option->choices));
      // -x takes a value and forbids files; where files are welcome it must be -r.
      const auto takes = option->is_flag() ? "" : source.starts_with(" -F") ? " -r" : " -x";
      lines += text(when, option->letter != 0 ? text(" -s ", option->letter) : "", " -l ", option->name, takes, source);
      if (!option->is_flag()) taking.push_back(text("--", option->name));
      if (!option->is_flag() && option->letter != 0) taking.push_back(text("-", option->letter));
      lines += text(" -d ", fish_quoted(option->help), "\n");
    }
    for (size_t i = 0; i < command->positionals.size(); ++i) {
      const auto& positional = command->positionals[i];
      const auto source = offer(source_name(positional.complete, positional.choices));
      if (source.empty()) continue;
      const auto last = positional.max == 1 ? text(i) : std::string("1000000");
      lines += text("complete -c collegium -n ", fish_quoted(text("__collegium_in ", command->name, " ", i, " ", last)),
                    source, " -d ", fish_quoted(positional.name), "\n");
    }
    if (!taking.empty())
      values += text("        case ", command->name, "\n            printf '%s\\n' ", join(taking, " "), "\n");
  }
  std::string queries;
  for (const auto& [source, words] : kNameQueries)
    queries += text("function __collegium_", source, "\n    set -l words (commandline -opc)\n    $words[1] ", words,
                    " 2>/dev/null\nend\n\n");
  return text(R"sh(# Completion of collegium for fish. Once:
#   collegium completion fish > ~/.config/fish/completions/collegium.fish

# Options of a command that take a value, one a line
function __collegium_taking
    switch "$argv[1]"
)sh",
              values, R"sh(    end
end

# With no argument: is a command still to be named? With COMMAND [FIRST LAST]: is it that command, and is the word
# under the cursor its argument number FIRST to LAST?
function __collegium_in
    set -l words (commandline -opc)
    set -l command
    set -l count 0
    set -l skip no
    for word in $words[2..-1]
        if test $skip = yes
            set skip no
        else if string match -q -- '-*' $word
            if contains -- $word (__collegium_taking "$command")
                set skip yes
            end
        else if test -z "$command"
            set command $word
        else
            set count (math $count + 1)
        end
    end
    if test (count $argv) -eq 0
        test -z "$command"
        return
    end
    test "$command" = "$argv[1]"; or return 1
    test (count $argv) -eq 1; and return 0
    test $count -ge $argv[2] -a $count -le $argv[3]
end

)sh",
              queries, R"sh(function __collegium_commands
    string split ' ' ')sh",
              names_of(all), R"sh('
end

function __collegium_recipes
    find recipes presets -name '*.toml' 2>/dev/null
end

complete -c collegium -f
complete -c collegium -n '__collegium_in' -l help -d 'show help'
complete -c collegium -n '__collegium_in' -l version -d 'show the version'
)sh",
              lines);
}

}  // namespace collegium::cli
